"""Real keys, as `openssl` writes them, and a keyring that tests own."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_private(path: Path, key: PrivateKeyTypes, password: bytes = b"") -> Path:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    return path


def make_keys(
    folder: Path, name: str, curve: type[ec.EllipticCurve] = ec.SECP256R1
) -> tuple[Path, Path]:
    """A key pair in two files: private, public."""
    key = ec.generate_private_key(curve())
    public = folder / f"{name}-public.pem"
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return write_private(folder / f"{name}.pem", key), public


def trust_key(config: Path, public: Path) -> Path:
    """Put a key into the keyring below a folder for configuration; return it there."""
    ring = config / "trusted_keys"
    ring.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = ring / public.name
    kept.write_bytes(public.read_bytes())
    kept.chmod(0o600)
    return kept
