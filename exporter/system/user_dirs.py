"""The user's folders of this program: its cache, and pulled artifacts."""

import grp
import logging
import os
import pwd
import stat
from pathlib import Path

_log = logging.getLogger(__name__)
_PLACE = "EXPORTER_CACHE"
_UNMAPPED = 65534  # how root of the outside appears in a user namespace, or over NFS


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
    """Return True if only this user can change what a path leads to; log a warning if not.

    Files in such folders decide which code runs. The folders above are checked too, because who can
    write to one can exchange what is in it.
    """
    parents = {*folder.absolute().parents, *folder.resolve().parents}
    dangers = (_danger(each, folder) for each in (folder, *sorted(parents)))
    danger = next(filter(None, dangers), None)
    if danger:
        _log.warning("%s is ignored: %s", folder, danger)
    return danger is None


def _danger(place: Path, folder: Path) -> str | None:
    """Return how another user can change a folder, or one above it, and what to do; else None."""
    facts = place.stat()
    others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    owners = {os.geteuid()}
    if place != folder:
        owners |= {0, _UNMAPPED}
        if others == stat.S_IWGRP and facts.st_gid == os.getegid() and _alone_in(facts.st_gid):
            others = 0  # as a umask of 002 has it
        if facts.st_mode & stat.S_ISVTX:  # as /tmp: others cannot rename what is ours
            others = 0
    if facts.st_uid not in owners:
        return f"{place} belongs to another user; choose a folder of your own"
    return f"{place} is writable by others; run chmod go-w {place}" if others else None


def _alone_in(group: int) -> bool:
    """Return True if a group has no other members than this user."""
    try:
        members = set(grp.getgrgid(group).gr_mem)
        return members <= {pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:  # in containers, neither may have a name
        return False
