"""The originals' transcripts, kept on this machine, so that each clip is heard once.

One file for each original, decoding and machine; a line for each batch, named by the sounds in it.
Times are never kept. A line that was damaged, or cut off by a crash, is heard again.
"""

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.families import FAMILIES
from exporter.system import hardware, user_dirs
from exporter.system.build_cache import Entry, sources_sha256
from exporter.system.files import make_folder, remove_files

_log = logging.getLogger(__name__)
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "soundfile", "soxr")
_SOURCES = ("families", "formats", "recognition", "runtime")
_SUFFIX = ".jsonl"
_START = b'{"of": "'
_NAME = slice(len(_START), len(_START) + 64)
_MOST_ABOUT = 1 << 16

Heard = list[dict[str, Any]]
"""What was heard in the clips of a batch: plain data."""


def folder() -> Path:
    """Return the folder of kept transcripts."""
    return user_dirs.place() / "transcripts"


def file_of(checkpoint: str, family: str, how: Mapping[str, Any], what: str) -> Path | None:
    """Return the file of an original's transcripts, which is made if it is missing.

    Args:
        checkpoint: The sha256 of the original.
        family: The name of its family.
        how: How it decodes, as plain data.
        what: The original's name, for users.

    Returns:
        The file, named by all that decides what is heard: these, the versions of the libraries and
        of this package's code, and the CPU's level. None if nothing can be kept: a warning is
        logged.
    """
    machine = hardware.describe().as_dict()
    prefixes = tuple(f"exporter.{name}" for name in _SOURCES)
    modules = {"exporter.recognition.load", f"{FAMILIES.facts(family).__name__}.family"}
    known = {
        "checkpoint": checkpoint,
        "how": how,
        "versions": hardware.versions_of(_PACKAGES),
        "cpu": [machine["isa"], machine["features"]],
        "code": sources_sha256(frozenset(modules), packages=prefixes),
    }
    named = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    path = (folder() / named).with_suffix(_SUFFIX)
    try:
        make_folder(folder(), 0o700)
        if not user_dirs.owned(folder()):
            return None
        if not path.exists():
            _append(path, json.dumps({"what": f"transcripts of {what}"}))
    except OSError as error:
        _log.warning("no transcripts of the original are kept: %s", error)
        return None
    return path


def entries() -> list[Entry]:
    """Return all files of kept transcripts."""
    return [
        Entry(path, _what(path), facts.st_size, facts.st_mtime)
        for path in _files()
        for facts in [path.stat()]
    ]


def clear() -> int:
    """Remove all kept transcripts; return their bytes."""
    return remove_files(_files())


class Kept:
    """What is kept of one original, and what is added; of a batch, 16 bytes are in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writes, self._whole = True, True
        names, offsets = array("Q"), array("q")
        try:
            for offset, line in _lines(path):
                if line.startswith(_START):
                    names.append(_number(line[_NAME]))
                    offsets.append(offset)
        except OSError as error:
            _log.warning("kept transcripts cannot be read, so all is heard: %s", error)
        order = np.argsort(names, kind="stable")
        self._names = np.array(names, dtype=np.uint64)[order]
        self._offsets = np.array(offsets, dtype=np.int64)[order]

    def get(self, batch: Sequence[Any]) -> Heard | None:
        """Return what was heard in a batch; None if that is not known, or damaged.

        Args:
            batch: What tells the clips of the batch from all others, as plain data.
        """
        name = _name(batch)
        number = np.uint64(_number(name.encode()))
        first, end = (int(np.searchsorted(self._names, number, side)) for side in ("left", "right"))
        for offset in self._offsets[first:end][::-1].tolist():  # the last one is the newest
            heard = self._at(offset, name)
            if heard is not None and len(heard) == len(batch):
                return heard
        return None

    def put(self, batch: Sequence[Any], heard: Heard) -> None:
        """Add what was heard in a batch; if the disk refuses, nothing more is kept."""
        if not self._writes:
            return
        try:
            row = {"of": _name(batch), "sha256": _sha256(heard), "heard": heard}
            _append(self._path, json.dumps(row))
        except OSError as error:
            self._writes = False
            _log.warning("further transcripts of the original are not kept: %s", error)

    def _at(self, offset: int, name: str) -> Heard | None:
        try:
            with self._path.open("rb") as stream:
                stream.seek(offset)
                row = json.loads(stream.readline())
            if row["of"] == name and row["sha256"] == _sha256(row["heard"]):
                heard: Heard = row["heard"]
                return heard
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        if self._whole:
            _log.warning("kept transcripts are damaged, and those are heard again: %s", self._path)
        self._whole = False
        return None


def _name(batch: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(batch).encode()).hexdigest()


def _number(name: bytes) -> int:
    """Return the first 64 bits of a name; those of something else lead to a line that is not it."""
    try:
        return int(name[:16], 16)
    except ValueError:
        return 0


def _sha256(heard: Heard) -> str:
    return hashlib.sha256(json.dumps(heard).encode()).hexdigest()


def _append(path: Path, line: str) -> None:
    """Append a line by one write, so that several processes may; one that was cut off is ended."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        ended = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        os.write(descriptor, f"{'' if ended else chr(10)}{line}\n".encode())
    finally:
        os.close(descriptor)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, line
            offset += len(line)


def _what(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return str(json.loads(stream.readline(_MOST_ABOUT))["what"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "transcripts of an original (damaged)"


def _files() -> Iterator[Path]:
    here = folder()
    yield from sorted(here.glob(f"*{_SUFFIX}")) if here.is_dir() else ()
