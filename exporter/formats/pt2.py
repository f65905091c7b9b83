"""Torch's packages, `.pt2`, checked as bytes: a zip whose loader unpacks whatever the zip names.

Readers of zips differ in what they believe: the directory at the end, the header before a member,
the first or the last of two members of one name. So a package is refused unless it can be read in
one way only: stored members one after the other, each as the directory says, then the directory,
and not a byte beside. Kept without torch, so that this comes before any loader.
Source: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

import stat
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exporter.errors import IntegrityError

SPEC = "extra/exporter.json"
FIXED = ("archive_format", "archive_version", "byteorder", ".data/version", SPEC)
LIBRARY = "data/aotinductor/model/graph.wrapper.so"
DESCRIPTION = "data/aotinductor/model/graph.wrapper_metadata.json"
MEMBERS = frozenset({*FIXED, LIBRARY, DESCRIPTION})

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_MAX_DIRECTORY_BYTES = 64 << 10


@dataclass(frozen=True)
class _Member:
    """A member as the directory has it.

    `told` is what its own header must repeat: version, flags, method, time, date, CRC, both sizes.
    """

    name: bytes
    place: int
    told: tuple[int, ...]
    mode: int
    beside: int  # bytes of extra fields and comment

    @property
    def flags(self) -> int:
        """Encryption, sizes told after the data, and the like; we write none."""
        return self.told[1]

    @property
    def compressed(self) -> bool:
        """Whether its data are not simply there."""
        return self.told[2] != 0 or self.told[6] != self.told[7]

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.place + _HEADER.size + len(self.name) + self.told[7]


def check(path: Path) -> None:
    """Raise IntegrityError unless a package holds what we write, and in one reading only."""
    try:
        with path.open("rb") as file:
            found = _problem(path, file)
    except (OSError, struct.error) as error:
        found = f"no readable directory ({error})"
    if found:
        msg = (
            f"{path} has {found}; nothing was opened.\n"
            "Build the artifact again, or fetch it from a source you trust."
        )
        raise IntegrityError(msg)


def _problem(path: Path, file: BinaryIO) -> str | None:
    """What keeps a package from being one of ours, if anything does."""
    size = path.stat().st_size
    file.seek(max(size - _END.size, 0))
    mark, *disks, _, count, length, begin, comment = _END.unpack(file.read())
    if mark != b"PK\5\6" or any(disks) or comment or begin + length + _END.size != size:
        return "no directory at its very end"
    if length > _MAX_DIRECTORY_BYTES:
        return "a directory that is too long"
    file.seek(begin)
    members = list(_members(file.read(length)))
    problems = {
        "a directory that contradicts itself": len(members) != count,
        "other members than a package has": _names(members) != _names_of_ours(path),
        "a compressed member": any(m.compressed for m in members),
        "an encrypted or streamed member": any(m.flags for m in members),
        "a link or a folder": any(stat.S_IFMT(m.mode) not in (0, stat.S_IFREG) for m in members),
        "comments or extra fields": any(m.beside for m in members),
        "sizes that do not fit": not _in_a_row(members, begin),
    }
    for what, is_so in problems.items():
        if is_so:
            return what
    repeated = all(_header(file, member) == (member.told, member.name) for member in members)
    return None if repeated else "a member that is not what the directory says"


def _members(directory: bytes) -> Iterator[_Member]:
    place = 0
    while place < len(directory):
        mark, _, *told, name, extra, comment, _, _, mode, offset = _ENTRY.unpack_from(
            directory, place
        )
        if mark != b"PK\1\2":
            return
        first = place + _ENTRY.size
        place = first + name + extra + comment
        own = directory[first : first + name]
        yield _Member(own, offset, tuple(told), mode >> 16, extra + comment)


def _names(members: Sequence[_Member]) -> Counter[bytes]:
    return Counter(member.name for member in members)


def _names_of_ours(path: Path) -> Counter[bytes]:
    return Counter(f"{path.stem}/{inner}".encode() for inner in MEMBERS)


def _in_a_row(members: Sequence[_Member], end: int) -> bool:
    """Whether members fill the file from its begin to the directory, none over another."""
    ordered = sorted(members, key=lambda member: member.place)
    starts, ends = [m.place for m in ordered], [m.end for m in ordered]
    return [*starts, end] == [0, *ends]


def _header(file: BinaryIO, member: _Member) -> tuple[tuple[int, ...], bytes] | None:
    """What stands before a member's data, if that is a header without extra fields."""
    file.seek(member.place)
    mark, *told, name, extra = _HEADER.unpack(file.read(_HEADER.size))
    return (tuple(told), file.read(name)) if mark == b"PK\3\4" and not extra else None
