"""A part: what one model heard in a shard, as JSON lines.

Its name says what was to be heard, by which model, and on which kind of machine, so it is found by
whoever needs the same. The first line has a hash of the others, and the kind of machine.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from exporter.validate.measure.model import Frozen
from exporter.validate.measure.transcripts import ClipResult

_VERSION = 1
_SUFFIX = ".jsonl"


class Damaged(ValueError):
    """The bytes are no whole part."""


class HeardClip(Frozen):
    """What was heard in a clip, and in which audio.

    Attributes:
        number: The clip's place in the shard, from 0.
        id: Its name in the data.
        sound: The sha256 of its samples.
        audio: The sha256 of its encoded audio; of a part of a file, also of where it is.
        whole: Whether the data name a part of a file that is all of it.
        duration_s: Its seconds.
        heard: Its transcript.
    """

    number: int
    id: str
    sound: str
    audio: str
    whole: bool
    duration_s: float
    heard: ClipResult


class Unreadable(Frozen):
    """A clip that could not be read and was left out: its place in the shard, and its name."""

    number: int
    id: str


@dataclass(frozen=True)
class Part:
    """The result of a shard.

    Attributes:
        environment: The kind of machine, as `engine.environment` describes it.
        clips: What was heard, in the shard's order.
        unreadable: The clips that were left out.
    """

    environment: dict[str, Any]
    clips: tuple[HeardClip, ...]
    unreadable: tuple[Unreadable, ...] = ()


def hash_of(data: object) -> str:
    """Return the sha256 of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def name_of(shard: str, environment: dict[str, Any]) -> str:
    """Return the name of a part.

    Args:
        shard: The hash of model, decoding and clips.
        environment: The kind of machine.
    """
    return named(shard, hash_of(environment))


def named(shard: str, environment_sha256: str) -> str:
    """Return the name of a part by the hash of its environment."""
    return f"{shard}-{environment_sha256}{_SUFFIX}"


def environments_of(names: Iterable[str], shard: str) -> set[str]:
    """Return the hashes of the environments in which a shard was heard."""
    start = f"{shard}-"
    return {
        name.removeprefix(start).removesuffix(_SUFFIX) for name in names if name.startswith(start)
    }


def packed(part: Part) -> bytes:
    """Return the bytes of a part, the same for the same part."""
    rows: Sequence[Frozen] = (*part.clips, *part.unreadable)
    body = "".join(row.model_dump_json() + "\n" for row in rows).encode()
    head = {
        "part": _VERSION,
        "environment": part.environment,
        "clips": len(part.clips),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(head, sort_keys=True).encode() + b"\n" + body


def unpacked(data: bytes) -> Part:
    """Return the part that `packed` gave.

    Raises:
        Damaged: The bytes are others.
    """
    first, _, body = data.partition(b"\n")
    try:
        head = json.loads(first)
        if head["part"] != _VERSION or head["sha256"] != hashlib.sha256(body).hexdigest():
            raise Damaged
        lines = body.splitlines()
        count = head["clips"]
        clips = tuple(HeardClip.model_validate_json(line) for line in lines[:count])
        left_out = tuple(Unreadable.model_validate_json(line) for line in lines[count:])
        return Part(dict(head["environment"]), clips, left_out)
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError) as error:
        raise Damaged from error
