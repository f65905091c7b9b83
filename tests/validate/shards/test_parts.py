"""A part is found by what it is of, comes back as it was written, and tells any damage."""

import json

import pytest

from exporter.validate.measure.transcripts import ClipResult
from exporter.validate.shards.parts import (
    Damaged,
    HeardClip,
    Part,
    Unreadable,
    environments_of,
    hash_of,
    name_of,
    packed,
    unpacked,
)

HERE = {"cpu": ["x86-64-v4"], "versions": {"torch": "2.13.0"}, "code": "0"}


def part() -> Part:
    heard = ClipResult(text="ein Wort\r\u2028zwei", tokens=3, distinct=(1, 5), kept=True)
    hashes = {"sound": "a" * 64, "audio": "b" * 64}
    clip = HeardClip(number=0, id="a/1.wav", **hashes, whole=False, duration_s=1 / 3, heard=heard)
    return Part(HERE, (clip,), (Unreadable(number=1, id="gone\n.wav"),))


def test_comes_back_and_has_the_same_bytes_each_time() -> None:
    data = packed(part())
    assert unpacked(data) == part()
    assert packed(unpacked(data)) == data


@pytest.mark.parametrize("place", range(0, len(packed(part())), 7))
def test_tells_every_change(place: int) -> None:
    data = bytearray(packed(part()))
    data[place] ^= 1
    for changed in (bytes(data), packed(part())[:place]):
        try:
            found = unpacked(changed)
        except Damaged:
            continue
        # The first line tells the environment, which the name has a hash of.
        assert found.clips == part().clips
        assert hash_of(found.environment) != hash_of(HERE) or found == part()


@pytest.mark.parametrize("head", ["[]", "{}", "1", "null", '{"part": 2}', "x", "[" * 10_000])
def test_other_files_are_no_parts(head: str) -> None:
    with pytest.raises(Damaged):
        unpacked(head.encode())
    with pytest.raises(Damaged):
        unpacked(b"")


def test_names_tell_what_was_heard_and_where() -> None:
    other = {**HERE, "cpu": ["x86-64-v3"]}
    names = [name_of(shard, where) for shard in ("1" * 64, "2" * 64) for where in (HERE, other)]
    assert len({*names}) == 4
    assert environments_of([*names, "note.txt"], "1" * 64) == {hash_of(HERE), hash_of(other)}
    assert environments_of(names, "3" * 64) == set()
    assert name_of("1" * 64, json.loads(json.dumps(HERE))) == names[0]
