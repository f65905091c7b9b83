"""The user's folders of this program: its cache, and pulled artifacts."""

import logging
import os
import stat
from pathlib import Path

_log = logging.getLogger(__name__)
_PLACE = "EXPORTER_CACHE"


def place() -> Path:
    """Return the cache's folder: $EXPORTER_CACHE, or `exporter` in the user's cache folder."""
    if chosen := os.environ.get(_PLACE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "exporter"


def home() -> Path:
    """Return the user's home; the root for a user without home and name, as in containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def pulled() -> Path:
    """Return the folder of artifacts that were opened by Hub id, as ORG/NAME/REVISION."""
    return place() / "pulled"


def owned(folder: Path) -> bool:
    """Return True if only this user can write to a path; log a warning if not.

    Files in such folders decide which code runs.
    """
    state = folder.stat()
    if state.st_uid == os.geteuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    _log.warning("%s is writable by others and is ignored: run chmod go-w", folder)
    return False
