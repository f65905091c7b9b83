"""Signing keys, and the keyring: the public keys that are trusted on this machine.

The libraries that read keys come with the extra `sign` and are imported only when a key is used.
"""

import hashlib
import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter.errors import RecipeError, needing
from exporter.system.files import read_small
from exporter.system.user_dirs import home, owned

_PLACE = "EXPORTER_CONFIG"
_MAX_BYTES = 64 << 10
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}  # the curves that model-signing supports

_log = logging.getLogger(__name__)


def keyring() -> Path:
    """Return the folder of trusted public keys (*.pem).

    It is in $EXPORTER_CONFIG, or in `exporter` in the user's configuration folder.
    """
    if chosen := os.environ.get(_PLACE):
        return Path(chosen) / "trusted_keys"
    config = os.environ.get("XDG_CONFIG_HOME") or home() / ".config"
    return Path(config) / "exporter" / "trusted_keys"


def trusted() -> list[Path]:
    """Return the keyring's regular files that only their owner, this user, can write."""
    place = keyring()
    if not place.is_dir() or not owned(place):
        return []
    paths = sorted(path for path in place.glob("*.pem") if path.is_file())
    linked = [path for path in paths if path.is_symlink()]
    for path in linked:
        _log.warning("%s is a link and is ignored: replace it by the key itself", path)
    return [path for path in paths if path not in linked and owned(path)]


def hints() -> dict[str, Path]:
    """Map the hints of the keyring's keys to their files, and log a warning for other files."""
    named = {}
    for path in trusted():
        try:
            named[hint(path)] = path
        except RecipeError as error:
            _log.warning("%s", str(error).splitlines()[0])
    return named


def hint(key: Path) -> str:
    """Return the hint by which a signature names a public key.

    Raises:
        RecipeError: The file holds no elliptic-curve public key.
        MachineError: model-signing is not installed.
    """
    serialization = _serialization()
    loaded = _loaded(key, "public", serialization.load_pem_public_key)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(loaded.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def require_private(key: Path) -> None:
    """Raise RecipeError unless a file holds an elliptic-curve private key."""
    read = _serialization().load_pem_private_key
    _loaded(key, "private", lambda text: read(text, None))


def model_signing() -> Any:
    """Import model-signing; raise MachineError if it is not installed."""
    with needing("sign"):
        return import_module("model_signing")


def _serialization() -> Any:
    model_signing()  # depends on cryptography
    return import_module("cryptography.hazmat.primitives.serialization")


def _loaded(key: Path, kind: str, read: Any) -> Any:
    unsupported = import_module("cryptography.exceptions").UnsupportedAlgorithm
    try:
        loaded = read(read_small(key, _MAX_BYTES, RecipeError, "a key in PEM"))
    except OSError as error:
        msg = f"{key} cannot be read: {error.strerror}"
        raise RecipeError(msg) from error
    except TypeError as error:  # raised for a missing password
        msg = f"{key} is encrypted: decrypt it first, openssl pkey -in {key} -out PLAIN.pem"
        raise RecipeError(msg) from error
    except (ValueError, unsupported) as error:
        msg = f"{key} holds no {kind} key in PEM"
        raise RecipeError(msg) from error
    if getattr(getattr(loaded, "curve", None), "name", None) not in _CURVES:
        msg = (
            f"{key} is not an elliptic-curve key of P-256, P-384 or P-521. Create one:\n"
            "openssl ecparam -name prime256v1 -genkey -noout -out private.pem\n"
            "openssl ec -in private.pem -pubout -out public.pem"
        )
        raise RecipeError(msg)
    return loaded
