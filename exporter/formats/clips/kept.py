"""Clips that are no files of their own, kept in the cache as files for calibrations and searches.

Calibration data are named by path, and read again in other processes.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from exporter.system import user_dirs
from exporter.system.build_cache import Entry
from exporter.system.files import make_folder, partial_name, remove_files, write_atomic

_NAME = r"[0-9a-f]{64}(\.[A-Za-z0-9]{1,8})?"
_WHOLE = re.compile(_NAME)
_OURS = re.compile(f"{_NAME}|{partial_name(_NAME)}")


def folder() -> Path:
    """Return the folder of kept clips."""
    return user_dirs.place() / "clips" / "parts"


def keep(encoded: bytes, suffix: str) -> Path:
    """Return the file of a clip's bytes, which is written unless it is there.

    Args:
        encoded: A file of audio.
        suffix: The suffix of its name.

    Raises:
        OSError: It cannot be written.
    """
    path = folder() / f"{hashlib.sha256(encoded).hexdigest()}{suffix}"
    if not path.exists():
        make_folder(path.parent, 0o700)
        write_atomic(path, encoded)
    return path


def entries() -> list[Entry]:
    """Return all kept clips as one entry, of the time of the newest; none if there are none."""
    facts = [path.lstat() for path in _files() if _WHOLE.fullmatch(path.name)]
    if not facts:
        return []
    what = f"{len(facts)} clip{'s' * (len(facts) > 1)} for calibrations and searches"
    size = sum(each.st_size for each in facts)
    return [Entry(folder(), what, size, max(each.st_mtime for each in facts))]


def clear() -> int:
    """Remove all kept clips; return their bytes. Other files in the folder stay."""
    return remove_files(_files())


def _files() -> Iterator[Path]:
    here = folder()
    for path in sorted(here.iterdir()) if here.is_dir() else ():
        if _OURS.fullmatch(path.name):
            yield path
