"""Keys that sign, and the keyring: public keys of those whose signatures count on this machine.

What reads them comes with the extra `sign`, and is imported only where a key is used.
"""

import hashlib
import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter.errors import MachineError, RecipeError
from exporter.system.files import read_small
from exporter.system.user_dirs import home, owned

_PLACE = "EXPORTER_CONFIG"
_MAX_BYTES = 64 << 10
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}  # those that model-signing knows

_log = logging.getLogger(__name__)


def keyring() -> Path:
    """The folder of public keys (*.pem) whose signatures count.

    In $EXPORTER_CONFIG, or `exporter` in the user's folder for configuration.
    """
    if chosen := os.environ.get(_PLACE):
        return Path(chosen) / "trusted_keys"
    config = os.environ.get("XDG_CONFIG_HOME") or home() / ".config"
    return Path(config) / "exporter" / "trusted_keys"


def trusted() -> list[Path]:
    """The files of the keyring: plain, ours, and written by nobody else, like their folder."""
    place = keyring()
    if not place.is_dir() or not owned(place):
        return []
    found = sorted(path for path in place.glob("*.pem") if path.is_file())
    linked = [path for path in found if path.is_symlink()]
    for path in linked:
        _log.warning("%s is a link, and not used: put the key itself there", path)
    return [path for path in found if path not in linked and owned(path)]


def hints() -> dict[str, Path]:
    """The keys of the keyring by the names that signatures give them; what is no key is told."""
    named = {}
    for path in trusted():
        try:
            named[hint(path)] = path
        except RecipeError as error:
            _log.warning("%s", str(error).splitlines()[0])
    return named


def hint(key: Path) -> str:
    """How a signature names a public key; raise RecipeError for a file that holds none."""
    serialization = _serialization()
    loaded = _loaded(key, "public", serialization.load_pem_public_key)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(loaded.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def require_private(key: Path) -> None:
    """Raise RecipeError for a file that holds no private key to sign with."""
    read = _serialization().load_pem_private_key
    _loaded(key, "private", lambda text: read(text, None))


def model_signing() -> Any:
    """The library; raise MachineError where it is not installed."""
    try:
        return import_module("model_signing")
    except ImportError as error:
        msg = "signatures need model-signing: pip install 'exporter[sign]'"
        raise MachineError(msg) from error


def _serialization() -> Any:
    model_signing()  # brings it
    return import_module("cryptography.hazmat.primitives.serialization")


def _loaded(key: Path, kind: str, read: Any) -> Any:
    unsupported = import_module("cryptography.exceptions").UnsupportedAlgorithm
    try:
        loaded = read(read_small(key, _MAX_BYTES, RecipeError, "a key in PEM"))
    except OSError as error:
        msg = f"{key} cannot be read: {error.strerror}"
        raise RecipeError(msg) from error
    except TypeError as error:  # it asks for a password
        msg = f"{key} is encrypted: decrypt it first, openssl pkey -in {key} -out PLAIN.pem"
        raise RecipeError(msg) from error
    except (ValueError, unsupported) as error:
        msg = f"{key} holds no {kind} key in PEM"
        raise RecipeError(msg) from error
    if getattr(getattr(loaded, "curve", None), "name", None) not in _CURVES:
        msg = (
            f"{key} is no elliptic-curve key of P-256, P-384 or P-521. Make one:\n"
            "openssl ecparam -name prime256v1 -genkey -noout -out private.pem\n"
            "openssl ec -in private.pem -pubout -out public.pem"
        )
        raise RecipeError(msg)
    return loaded
