"""The local build registry: which artifacts this machine built, in notes that only it can write.

A file per artifact is named by its digest and authenticated with a key of this machine, so that
whoever can create a file here still cannot say "built here".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.system.files import create_private, make_folder, read_small, write_atomic
from exporter.system.user_dirs import home, owned

if TYPE_CHECKING:
    from exporter.artifact.manifest import Manifest
    from exporter.artifact.store import AnyManifest

_log = logging.getLogger(__name__)
_PLACE = "EXPORTER_STATE"
_KEY_BYTES = 32
_MAX_NOTE_BYTES = 64 << 10


class _UnusableKey(Exception):
    """The registry's key is missing, or is no file that only this user can read."""


def state() -> Path:
    """Return $EXPORTER_STATE, or the folder `exporter` in the user's state folder."""
    if chosen := os.environ.get(_PLACE):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or home() / ".local" / "state") / "exporter"


def build_registry() -> Path:
    """Return the folder of the registry's notes, each named by an artifact's digest."""
    return state() / "built"


def record(manifest: Manifest) -> None:
    """Add an artifact to the registry, or log a warning that it needs `--trust`."""
    told = {"name": manifest.name, "kind": manifest.kind, "built": time.time()}
    try:
        make_folder(build_registry(), 0o700)
        note = {**told, "hmac": _hmac(_key_made(), manifest.digest, told)}
        write_atomic(build_registry() / manifest.digest, json.dumps(note).encode() + b"\n")
    except (OSError, _UnusableKey) as error:
        _log.warning(
            "cannot write to the local build registry, so loading may need --trust: %s", error
        )


def built_here(manifest: AnyManifest) -> bool:
    """Return True if the registry has an artifact's digest, in a note made with its key."""
    path = build_registry() / manifest.digest
    try:
        note = _read_note(path)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s cannot be read and is ignored: %s", path, error)
        return False
    if not owned(path.parent):
        return False
    try:
        told = {name: value for name, value in note.items() if name != "hmac"}
        true = hmac.compare_digest(_hmac(_key(), manifest.digest, told), str(note.get("hmac")))
    except (_UnusableKey, TypeError) as error:  # compare_digest takes no text beyond ASCII
        _log.warning("%s is ignored: %s", path, error)
        return False
    if not true:
        _log.warning(
            "%s is ignored: it was not written with this machine's key (by an older exporter, or by"
            " something else). Build the artifact again with --force, or load it with --trust",
            path,
        )
    return true


def _read_note(path: Path) -> dict[str, Any]:
    note = json.loads(read_small(path, _MAX_NOTE_BYTES, ValueError, "a note", follow_links=False))
    if not isinstance(note, dict):
        msg = "it holds no object"
        raise ValueError(msg)
    return note


def _hmac(key: bytes, digest: str, told: dict[str, Any]) -> str:
    """Return the code that binds what a note tells to the digest that is its name."""
    text = json.dumps({"digest": digest, "note": told}, sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """Read the registry's key; raise _UnusableKey unless only this user can read it."""
    path = state() / "key"
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise _UnusableKey(msg) from error
    with os.fdopen(descriptor, "rb") as stream:
        facts = os.fstat(stream.fileno())
        private = facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
        if stat.S_ISREG(facts.st_mode) and private and facts.st_size == _KEY_BYTES:
            return stream.read(_KEY_BYTES)
    msg = f"{path} is no private key of this user (mode 0600): remove it, and build again"
    raise _UnusableKey(msg)


def _key_made() -> bytes:
    """Return the registry's key, created if it is missing."""
    with suppress(FileExistsError):
        create_private(state() / "key", secrets.token_bytes(_KEY_BYTES))
    return _key()
