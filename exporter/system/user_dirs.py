"""The user's folders of this program: its cache, and pulled artifacts."""

import logging
import os
import stat
from pathlib import Path

_log = logging.getLogger(__name__)
_PLACE = "EXPORTER_CACHE"


def place() -> Path:
    """The folder: $EXPORTER_CACHE, or `exporter` in the user's folder for caches."""
    if chosen := os.environ.get(_PLACE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "exporter"


def home() -> Path:
    """The user's folder; the root for a user who has none and no name, as containers take it."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def pulled() -> Path:
    """Where artifacts are that were opened by their names on the Hub: ORG/NAME/REVISION."""
    return place() / "pulled"


def owned(folder: Path) -> bool:
    """Whether a folder is ours and nobody else can write there: what it holds decides what runs."""
    state = folder.stat()
    if state.st_uid == os.geteuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    _log.warning("%s is writable by others and is ignored: run chmod go-w", folder)
    return False
