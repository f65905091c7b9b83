"""Check torch's packages, `.pt2`: zips of which torch's loader unpacks every member.

A package must hold exactly the members that we write, of which only the library may be compressed,
and one directory at its end, where every reader of zips looks. Does not import torch, so that the
check precedes any loader.
Source: APPNOTE.TXT 6.3.10, sections 4.3.12 and 4.3.16.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from exporter.errors import IntegrityError

SPEC = "extra/exporter.json"
FIXED = ("archive_format", "archive_version", "byteorder", ".data/version", SPEC)
LIBRARY = "data/aotinductor/model/graph.wrapper.so"
DESCRIPTION = "data/aotinductor/model/graph.wrapper_metadata.json"
MEMBERS = frozenset({*FIXED, LIBRARY, DESCRIPTION})

_END = struct.Struct("<4s4H2LH")
_MAX_DIRECTORY_BYTES = 64 << 10
_MAX_MEMBER_BYTES = 32 << 20  # unpacked; a library of Whisper large-v3 has 2 MB
# The errors of `zipfile` for bytes that are no zip, or an encrypted one.
_UNREADABLE = (zipfile.BadZipFile, struct.error, OSError, EOFError, ValueError, RuntimeError)


def check(path: Path) -> None:
    """Check that a package holds exactly the members that we write.

    Raises:
        IntegrityError: It does not, or it is damaged; nothing in it was opened.
    """
    _require(path, path.open)


def check_data(data: bytes, path: Path) -> None:
    """Check the same of a package's bytes, read from `path` before.

    Raises:
        IntegrityError: They are no package of ours; nothing in them was opened.
    """
    _require(path, lambda _: io.BytesIO(data))


def _require(path: Path, opened: Callable[[Literal["rb"]], BinaryIO]) -> None:
    try:
        with opened("rb") as file:
            problem = _problem(file, path.stem)
    except _UNREADABLE as error:
        problem = f"no readable directory ({error})"
    if problem:
        msg = (
            f"{path} has {problem}; nothing was opened.\n"
            "Build the artifact again, or fetch it from a source you trust."
        )
        raise IntegrityError(msg)


def _problem(file: BinaryIO, stem: str) -> str | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END.size, 0))
    mark, *_, length, begin, comment = _END.unpack(file.read())
    if mark != b"PK\5\6" or comment or begin + length + _END.size != size:
        return "no directory at its very end"  # `zipfile` and torch would search for one
    if length > _MAX_DIRECTORY_BYTES:
        return "a directory that is too long"
    with zipfile.ZipFile(file) as package:
        members = package.infolist()
        # `filename` is cut at a NUL, which a member's name may hold.
        if sorted(m.orig_filename for m in members) != sorted(f"{stem}/{m}" for m in MEMBERS):
            return "other members than a package has"
        if any(m.file_size > _MAX_MEMBER_BYTES for m in members):
            return "a member that is too large"
        if any(m.compress_type not in _methods(m) for m in members):
            return "a compressed member"
        # Reads every member, and checks the name in its own header and its checksum.
        return "a damaged member" if package.testzip() else None


def _methods(member: zipfile.ZipInfo) -> tuple[int, ...]:
    """Return how a member may be compressed; those of earlier releases are all stored."""
    library = member.filename.endswith(f"/{LIBRARY}")
    return (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if library else (zipfile.ZIP_STORED,)
