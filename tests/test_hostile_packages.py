"""Packages that were made to do harm: whatever reads a zip, none of them is handed to it."""

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from exporter.artifact import trust
from exporter.errors import IntegrityError
from exporter.formats import pt2
from tests.sealed import members, refusal, seal

pytestmark = pytest.mark.usefixtures("no_loader", "harmless")
Change = Callable[[list["Member"]], Iterable["Member"]]


@dataclass(frozen=True)
class Member:
    """A member of a zip, each header of which may say something else."""

    name: bytes
    data: bytes
    size: int | None = None
    method: int = 0
    flags: int = 0
    mode: int = 0o644
    extra: bytes = b""
    own_name: bytes | None = None
    own_crc: int | None = None
    own_extra: bytes = b""

    def told(self, crc: int | None = None) -> bytes:
        size = len(self.data) if self.size is None else self.size
        crc = zlib.crc32(self.data) if crc is None else crc
        return struct.pack(
            "<5H3L", 20, self.flags, self.method, 0, 33, crc & 0xFFFFFFFF, size, size
        )

    @property
    def header(self) -> bytes:
        name = self.name if self.own_name is None else self.own_name
        sizes = struct.pack("<2H", len(name), len(self.own_extra))
        return b"PK\3\4" + self.told(self.own_crc) + sizes + name + self.own_extra

    def entry(self, place: int) -> bytes:
        sizes = struct.pack("<5HLL", len(self.name), len(self.extra), 0, 0, 0, 0, place)
        sizes = sizes[:10] + struct.pack("<LL", self.mode << 16, place)
        return b"PK\1\2\x14\3" + self.told() + sizes + self.name + self.extra


def zipped(
    made: Iterable[Member], before: bytes = b"", comment: bytes = b"", places: int | None = None
) -> bytes:
    body, directory, count = before, b"", 0
    for member in made:
        directory += member.entry(len(body) if places is None else places)
        body += member.header + member.data
        count += 1
    end = struct.pack("<4H2LH", 0, 0, count, count, len(directory), len(body), len(comment))
    return body + directory + b"PK\5\6" + end + comment


def ours() -> list[Member]:
    return [Member(name.encode(), data) for name, data in sorted(members("encoder").items())]


def more(name: bytes, data: bytes = b"x") -> Change:
    return lambda made: [*made, Member(name, data)]


def other(index: int = -1, **values: object) -> Change:
    def change(made: list[Member]) -> list[Member]:
        made[index] = replace(made[index], **values)  # type: ignore[arg-type]
        return made

    return change


def bomb(made: list[Member]) -> list[Member]:
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(bytes(1 << 26)) + packed.flush()
    return [*made[:-1], replace(made[-1], data=data, method=8)]


MODEL = b"encoder/data/aotinductor/model/"
MEMBERS: dict[str, Change] = {
    "a pickle for weights": more(b"encoder/data/weights/model_weights_config.json"),
    "a pickle for constants": more(b"encoder/data/constants/model_constants_config.json"),
    "a pickle for inputs": more(b"encoder/data/sample_inputs/model.pt"),
    "a program": more(b"encoder/models/model.json"),
    "a way out": more(MODEL + b"../../../../../../canary"),
    "a way out for a known one": other(own_name=MODEL + b"../../../../canary"),
    "from the root": more(b"/tmp/canary"),
    "backslashes": more(MODEL.replace(b"/", b"\\") + b"..\\canary"),
    "a drive": more(b"C:/canary"),
    "a NUL": more(MODEL + b"graph.wrapper.so\0.json"),
    "a NUL instead": other(name=MODEL + b"graph.wrapper_metadata.json\0"),
    "another library": more(MODEL + b"other.so"),
    "another model": more(b"encoder/data/aotinductor/other/graph.wrapper.so"),
    "another archive": more(b"other/archive_format"),
    "a folder": more(b"encoder/data/", b""),
    "one twice": lambda made: [*made, made[-1]],
    "one twice, other data": lambda made: [*made, replace(made[-1], data=b"evil")],
    "one missing": lambda made: made[1:],
    "no archive_format": lambda made: [m for m in made if not m.name.endswith(b"_format")],
    "no members": lambda made: [],
    "deflated": other(method=8),
    "a bomb": bomb,
    "more than there is": other(size=1 << 31),
    "less than there is": other(size=1),
    "encrypted": other(flags=1),
    "sizes told later": other(flags=8),
    "a symbolic link": other(mode=0o120777),
    "a device": other(mode=0o020666),
    "another name before the data": other(own_name=b"encoder/data/sample_inputs/model.pt"),
    "another sum before the data": other(own_crc=0),
    "extra fields": other(extra=struct.pack("<HH4s", 0x7075, 4, b"evil")),
    "extra fields before the data": other(own_extra=struct.pack("<HH4s", 0x7075, 4, b"evil")),
}  # fmt: skip


@pytest.mark.parametrize("case", MEMBERS)
def test_packages_that_are_not_ours(case: str, tmp_path: Path) -> None:
    package = zipped(MEMBERS[case](ours()))
    told = refusal(seal(tmp_path / "aoti", files={"encoder.pt2": package}))
    assert "encoder.pt2 has " in told
    assert not list(tmp_path.rglob("canary"))


BYTES: dict[str, bytes] = {
    "something before": zipped(ours(), before=b"#!/bin/sh\n"),
    "something after": zipped(ours()) + b"x",
    "a comment": zipped(ours(), comment=b"PK\5\6"),
    "another zip before": zipped(ours(), before=zipped(ours())),
    "another zip after": zipped(ours()) + zipped(ours()),
    "one over the other": zipped(ours(), places=0),
    "no zip": b"not a zip",
    "nothing": b"",
    "the end alone": zipped([]),
    "half": zipped(ours())[:500],
    "a directory that is not there": zipped(ours())[:-22] + b"PK\5\6" + b"\xff" * 18,
    "a directory that says 64 bits": zipped(ours())[:-22]
    + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_package(case: str, tmp_path: Path) -> None:
    told = refusal(seal(tmp_path / "aoti", files={"encoder.pt2": BYTES[case]}))
    assert "encoder.pt2 has " in told


def test_what_the_target_writes_is_let_through(tmp_path: Path) -> None:
    """Or all of the above would show nothing."""
    (tmp_path / "encoder.pt2").write_bytes(zipped(ours()))
    pt2.check(tmp_path / "encoder.pt2")
    trust.admit(seal(tmp_path / "aoti"), trust=True)


def test_a_package_of_an_unsealed_folder_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "encoder.pt2").write_bytes(zipped(ours())[:-1])
    with pytest.raises(IntegrityError, match="nothing in it was opened"):
        pt2.check(tmp_path / "encoder.pt2")
