"""The cache of traced and compiled graphs, which hold no weights.

An entry is named by a digest of everything it is made from, the sources that make it included, and
is believed only while its bytes are those that were written. Tracing and compiling are what takes
time; an interrupted build, or one of a sister checkpoint, finds them done.
"""

import ast
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from exporter.system.files import make_folder, partial_name, read_small, sha256_file, write_atomic
from exporter.system.user_dirs import owned, place

_log = logging.getLogger(__name__)
_NOTE = ".json"
# An entry, its note, or either half-written.
_KEPT = r"[0-9a-f]{64}(\.json)?"
_NAME = re.compile(f"{_KEPT}|{partial_name(_KEPT)}")
_MAX_NOTE_BYTES = 64 << 10
_ROOT = Path(__file__).parents[2]
# What a graph computes is written in these; of what they import beside, the callers' `parts` tell
# what matters: the checkpoint's architecture and types, the machine, the libraries' versions.
_PACKAGES = tuple(f"exporter.{name}" for name in ("families", "formats", "quantization", "targets"))


@dataclass(frozen=True)
class Entry:
    """One kept file: what it is, its size, and when (seconds since 1970) it was made."""

    path: Path
    what: str
    size_bytes: int
    made: float


def get_or_build(
    path: Path,
    what: str,
    parts: Mapping[str, Any],
    make: Callable[[], None],
    *,
    makers: Iterable[object],
    fresh: bool,
) -> None:
    """Have at `path` what `make` writes there, or wrote there when everything was last the same.

    A cache that cannot be read or written costs time, nothing else.

    Args:
        path: Where the file is wanted.
        what: What it is, for people.
        parts: Whatever decides its bytes, beside the sources, as JSON.
        make: Writes it.
        makers: The modules, or objects of classes in them, whose sources make it.
        fresh: Make it in any case.
    """
    code = sources_sha256(frozenset(map(_module_name, makers)))
    named = json.dumps({**parts, "code": code}, sort_keys=True)
    kept = place() / hashlib.sha256(named.encode()).hexdigest()
    if not fresh and _copied(kept, path):
        return
    make()
    try:
        _keep(path, kept, what)
    except OSError as error:
        _log.warning("nothing was kept for the next build: %s", error)


def _module_name(maker: object) -> str:
    return maker.__name__ if isinstance(maker, ModuleType) else type(maker).__module__


@cache
def sources_sha256(modules: frozenset[str], root: Path = _ROOT) -> str:
    """Hash the sources that make a graph, as they are on the disk.

    Args:
        modules: Dotted names of the modules that it is made by. Modules that they import, at any
            distance, count where they belong to families, formats, quantization or targets, and of
            a package its C++ sources, too.
        root: The folder that holds the `exporter` package.

    Returns:
        The sha256, in hex.
    """
    seen: set[Path] = set()
    left = [_source(name, root) for name in modules]
    while left:
        path = left.pop()
        if path is not None and path not in seen:
            seen.add(path)
            left += (_source(name, root) for name in _imports(path) if name.startswith(_PACKAGES))
    for package in [path.parent for path in seen if path.name == "__init__.py"]:
        seen |= {path for path in package.iterdir() if path.suffix in (".cpp", ".h")}
    whole = hashlib.sha256()
    for path in sorted(seen):
        whole.update(f"{path.relative_to(root)}\0{sha256_file(path)}\n".encode())
    return whole.hexdigest()


def _source(dotted: str, root: Path) -> Path | None:
    """Return the file of a module, or of the one that holds a name; None where there is none."""
    inner = root.joinpath(*dotted.split("."))
    files = (inner.with_suffix(".py"), inner / "__init__.py", inner.parent.with_suffix(".py"))
    return next((each for each in (*files, inner.parent / "__init__.py") if each.is_file()), None)


def _imports(source: Path) -> Iterator[str]:
    """Every module, and every name of one, that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
        note = json.loads(
            read_small(kept.with_suffix(_NOTE), _MAX_NOTE_BYTES, ValueError, "a cache's note")
        )
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
