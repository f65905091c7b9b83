"""The cache of traced and compiled graphs, which hold no weights.

An entry is named by a digest of all its inputs, including the sources of the code that makes it,
and is used only if its bytes have the recorded hash. Tracing and compiling take most of a build's
time; after an interrupted build, or for a checkpoint of the same architecture, they are not
repeated.
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
# The names of an entry, of its note, and of partial files of both.
_KEPT = r"[0-9a-f]{64}(\.json)?"
_NAME = re.compile(f"{_KEPT}|{partial_name(_KEPT)}")
_MAX_NOTE_BYTES = 64 << 10
_ROOT = Path(__file__).parents[2]
# These packages decide what a graph computes. Everything else that matters is in the callers'
# `parts`: the checkpoint's architecture and types, the machine, the libraries' versions.
_PACKAGES = tuple(f"exporter.{name}" for name in ("families", "formats", "quantization", "targets"))


@dataclass(frozen=True)
class Entry:
    """One cached file: its description, its size, and its time of creation (seconds since 1970)."""

    path: Path
    what: str
    size_bytes: int
    made: float


def get_or_build(
    path: Path,
    what: str,
    parts: Mapping[str, Any],
    make: Callable[[], object],
    *,
    makers: Iterable[object],
    fresh: bool,
) -> None:
    """Copy a file from the cache, or make it and add it to the cache.

    If the cache cannot be read or written, the file is made, and a warning is logged.

    Args:
        path: The file to write.
        what: Its description for users.
        parts: All inputs that decide its bytes, except sources, as JSON.
        make: Writes it to `path`.
        makers: The modules that make it, or objects of classes in them; their sources are inputs.
        fresh: Make it even if it is cached.

    Raises:
        Exception: Any error of `make`.
    """
    code = sources_sha256(frozenset(map(_module_name, makers)))
    named = json.dumps({**parts, "code": code}, sort_keys=True)
    entry = place() / hashlib.sha256(named.encode()).hexdigest()
    if not fresh and _copied(entry, path):
        return
    make()
    try:
        _keep(path, entry, what)
    except OSError as error:
        _log.warning("nothing was kept for the next build: %s", error)


def _module_name(maker: object) -> str:
    return maker.__name__ if isinstance(maker, ModuleType) else type(maker).__module__


@cache
def sources_sha256(
    modules: frozenset[str], root: Path = _ROOT, packages: tuple[str, ...] = _PACKAGES
) -> str:
    """Hash the sources of the code that makes a graph, as they are on disk.

    Args:
        modules: Dotted names of the modules that make it. Modules that they import, also
            indirectly, are included if they belong to `packages`; of packages, the C++ sources
            are included too.
        root: The folder that holds the `exporter` package.
        packages: Dotted names of packages.

    Returns:
        The sha256, in hex.
    """
    seen: set[Path] = set()
    left = [_source(name, root) for name in modules]
    while left:
        path = left.pop()
        if path is not None and path not in seen:
            seen.add(path)
            left += (_source(name, root) for name in _imports(path) if name.startswith(packages))
    for package in [path.parent for path in seen if path.name == "__init__.py"]:
        inner = {path.parent for path in package.glob("*/*.cpp")}
        for folder in (package, *(f for f in inner if not (f / "__init__.py").exists())):
            seen |= {path for path in folder.iterdir() if path.suffix in (".cpp", ".h")}
    whole = hashlib.sha256()
    for path in sorted(seen):
        whole.update(f"{path.relative_to(root)}\0{sha256_file(path)}\n".encode())
    return whole.hexdigest()


def _source(dotted: str, root: Path) -> Path | None:
    """Return the file of a module, or of the module that defines a name; None if there is none."""
    inner = root.joinpath(*dotted.split("."))
    files = (inner.with_suffix(".py"), inner / "__init__.py", inner.parent.with_suffix(".py"))
    return next((each for each in (*files, inner.parent / "__init__.py") if each.is_file()), None)


def _imports(source: Path) -> Iterator[str]:
    """Yield all modules and names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def entries() -> list[Entry]:
    """Return all entries, oldest first."""
    rows = []
    for path in _files():
        note = _read_note(path)
        if note is not None and not path.suffix:
            rows.append(Entry(path, note["what"], path.stat().st_size, note["made"]))
    return sorted(rows, key=lambda entry: entry.made)


def clear() -> int:
    """Remove all entries and partial files; return their bytes."""
    freed = 0
    for path in _files():
        freed += path.lstat().st_size if path.suffix != _NOTE else 0
        path.unlink(missing_ok=True)
    return freed


def _keep(path: Path, entry: Path, what: str) -> None:
    """Copy a file into the cache; its note is written last and makes the entry valid."""
    make_folder(entry.parent, 0o700)
    if not owned(entry.parent):
        return
    write_atomic(entry, path.read_bytes())
    note = {"what": what, "sha256": sha256_file(path), "made": time.time()}
    write_atomic(entry.with_suffix(_NOTE), json.dumps(note).encode())


def _copied(entry: Path, path: Path) -> bool:
    """Copy an entry to `path`; return False if it is missing, damaged, or writable by others."""
    try:
        note = _read_note(entry)
        if note is None or not owned(entry.parent):
            return False
        shutil.copyfile(entry, path, follow_symlinks=False)
        if not path.is_symlink() and sha256_file(path) == note["sha256"]:
            return True
        _log.warning("%s is damaged and is made again", entry)
    except OSError as error:
        _log.warning("%s cannot be used and is made again: %s", entry, error)
    path.unlink(missing_ok=True)
    return False


def _read_note(entry: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(
            read_small(entry.with_suffix(_NOTE), _MAX_NOTE_BYTES, ValueError, "a cache's note")
        )
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(note, dict) and note.keys() == {"what", "sha256", "made"}
    return note if whole and entry.is_file() else None


def _files() -> Iterator[Path]:
    """Yield the files in the cache whose names are of this module."""
    here = place()
    for path in sorted(here.iterdir()) if here.is_dir() else ():
        if _NAME.fullmatch(path.name):
            yield path
