"""Cut a list of recordings into parts, whose transcripts are one file each.

A part's name tells the artifact, the decoding and the recordings, so that a part that is there need
not be transcribed again, whoever wrote it, and another list never finds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from exporter.formats.clips.clip import Clip
from exporter.recognition.recordings import Recording

PART_S = 1200.0  # of audio: seconds to minutes of work, so that little is lost by a kill
_MOST = 1000  # recordings
# Where the data tell no duration: bytes a second between those of mp3 and FLAC at 16 kHz, and a
# short clip where they tell no size either.
_BYTES_A_SECOND, _UNKNOWN_S = 16_000, 10.0


@dataclass(frozen=True)
class Part:
    """Recordings that follow each other, and the name of the file of their transcripts."""

    name: str
    recordings: tuple[Recording, ...]


def parts_of(recordings: Iterable[Recording], stamp: object) -> Iterator[Part]:
    """Cut recordings into parts of at most about `PART_S` seconds of audio.

    Args:
        recordings: The recordings.
        stamp: What else decides the transcripts, as plain data: the artifact and its options.

    Yields:
        The parts; the same ones for the same recordings and stamp.
    """
    some: list[Recording] = []
    number, audio_s = 0, 0.0
    for each in recordings:
        seconds = estimated_s(each.clip)
        if some and (audio_s + seconds > PART_S or len(some) == _MOST):
            yield _part(number, some, stamp)
            number, some, audio_s = number + 1, [], 0.0
        some.append(each)
        audio_s += seconds
    if some:
        yield _part(number, some, stamp)


def _part(number: int, recordings: list[Recording], stamp: object) -> Part:
    whole = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode())
    for each in recordings:
        heard = replace(each.clip, text="", where="")  # of these, transcripts know nothing
        whole.update(json.dumps([heard.to_row(), str(each.result)]).encode())
    return Part(f"part-{number:06}-{whole.hexdigest()[:16]}.jsonl", tuple(recordings))


def estimated_s(clip: Clip) -> float:
    """Return the seconds of a clip as the data tell them, or an estimate, without opening it."""
    if clip.duration_s:
        return clip.duration_s
    return clip.size_bytes / _BYTES_A_SECOND if clip.size_bytes else _UNKNOWN_S
