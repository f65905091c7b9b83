"""The cache of traced and compiled graphs, which hold no weights.

An entry is named by a digest of everything it is made from, this package's own code included, and
is believed only while its bytes are those that were written. Tracing and compiling are what takes
time; an interrupted build, or one of a sister checkpoint, finds them done.
"""

import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from exporter.system.files import make_folder, partial_name, sha256_file, write_atomic
from exporter.system.user_dirs import owned, place

_log = logging.getLogger(__name__)
_NOTE = ".json"
# An entry, its note, or either half-written.
_KEPT = r"[0-9a-f]{64}(\.json)?"
_NAME = re.compile(f"{_KEPT}|{partial_name(_KEPT)}")


@dataclass(frozen=True)
class Entry:
    """One kept file: what it is, its size, and when (seconds since 1970) it was made."""

    path: Path
    what: str
    size_bytes: int
    made: float


def get_or_build(
    path: Path, what: str, parts: Mapping[str, Any], make: Callable[[], None], *, fresh: bool
) -> None:
    """Have at `path` what `make` writes there, or wrote there when `parts` were last the same.

    `fresh` makes it in any case. A cache that cannot be read or written costs time, nothing else.
    """
    named = json.dumps({**parts, "code": _code()}, sort_keys=True)
    kept = place() / hashlib.sha256(named.encode()).hexdigest()
    if not fresh and _copied(kept, path):
        return
    make()
    try:
        _keep(path, kept, what)
    except OSError as error:
        _log.warning("nothing was kept for the next build: %s", error)


def entries() -> list[Entry]:
    """Everything that is kept, oldest first."""
    found = []
    for path in _files():
        note = _read_note(path)
        if note is not None and not path.suffix:
            found.append(Entry(path, note["what"], path.stat().st_size, note["made"]))
    return sorted(found, key=lambda entry: entry.made)


def clear() -> int:
    """Remove everything that is kept, also what was left half-written; return its bytes."""
    freed = 0
    for path in _files():
        freed += path.lstat().st_size if path.suffix != _NOTE else 0
        path.unlink(missing_ok=True)
    return freed


def _keep(path: Path, kept: Path, what: str) -> None:
    """Copy a file into the cache; its note, written last, makes it valid."""
    make_folder(kept.parent, 0o700)
    write_atomic(kept, path.read_bytes())
    note = {"what": what, "sha256": sha256_file(path), "made": time.time()}
    write_atomic(kept.with_suffix(_NOTE), json.dumps(note).encode())


def _copied(kept: Path, path: Path) -> bool:
    """Copy an entry to `path`, if it is there, ours, and as it was written."""
    try:
        note = _read_note(kept)
        if note is None or not owned(kept.parent):
            return False
        shutil.copyfile(kept, path, follow_symlinks=False)
        if not path.is_symlink() and sha256_file(path) == note["sha256"]:
            return True
        _log.warning("%s is damaged and is made again", kept)
    except OSError as error:
        _log.warning("%s cannot be used and is made again: %s", kept, error)
    path.unlink(missing_ok=True)
    return False


def _read_note(kept: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(kept.with_suffix(_NOTE).read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(note, dict) and note.keys() == {"what", "sha256", "made"}
    return note if whole and kept.is_file() else None


def _files() -> Iterator[Path]:
    """The files that this module wrote, by their names."""
    here = place()
    for path in sorted(here.iterdir()) if here.is_dir() else ():
        if _NAME.fullmatch(path.name):
            yield path


@cache
def _code() -> str:
    """A digest of this package's source: whatever of it changes, old entries are not meant."""
    whole = hashlib.sha256()
    root = Path(__file__).parent.parent
    sources = (path for path in root.rglob("*") if path.suffix in (".py", ".cpp", ".h"))
    for path in sorted(sources):
        whole.update(f"{path.relative_to(root)}\0{sha256_file(path)}\n".encode())
    return whole.hexdigest()
