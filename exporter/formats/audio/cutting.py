"""Cut a part out of a recording without decoding what is before it, as a file of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from exporter.errors import DataError
from exporter.formats.audio.files import MAX_S, UNKNOWN_FRAMES, Encoded, too_long
from exporter.system.files import readable_name

# What Kaldi's extract-segments allows a segment to exceed its recording by (--max-overshoot).
OVERSHOOT_S = 0.5
_BLOCK_VALUES = 1 << 18
# Samples of integers are copied as they are; those of codecs are written as float32.
_EXACT = {"PCM_S8": "PCM_16", "PCM_U8": "PCM_16"} | {f"PCM_{n}": f"PCM_{n}" for n in (16, 24, 32)}


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a recording.

    Attributes:
        start_s: Where it begins, in seconds.
        duration_s: Its seconds; None: to the end of the recording.
        channel: The channel that is heard; None: the mean of all.
    """

    start_s: float
    duration_s: float | None = None
    channel: int | None = None


def header_s(source: Encoded) -> float:
    """Return a recording's seconds of audio as its header tells them; 0 if it does not.

    Nothing is decoded.

    Raises:
        DataError: It is missing, or no audio.
    """
    with source.open() as recording:
        frames = recording.frames
        return 0.0 if frames >= UNKNOWN_FRAMES else float(frames / recording.samplerate)


def is_whole(path: Path, excerpt: Excerpt) -> bool:
    """Return whether an excerpt is all of its recording, as far as the header tells.

    Raises:
        DataError: The recording is missing, or no audio.
    """
    if excerpt.start_s > 0:
        return False
    with Encoded(path, readable_name(str(path))).open() as recording:
        if excerpt.channel is not None and recording.channels > 1:
            return False
        if excerpt.duration_s is None:
            return True
        end: int = round(excerpt.duration_s * recording.samplerate)
        return bool(0 < recording.frames <= end)


def cut_out(path: Path, excerpt: Excerpt) -> bytes:
    """Return a part of a recording as the bytes of a WAV file; samples of integers stay the same.

    An end up to `OVERSHOOT_S` behind the recording's is its end.

    Args:
        path: The recording.
        excerpt: The part.

    Raises:
        DataError: The recording cannot be read, or ends before the excerpt does.
    """
    name = readable_name(str(path))
    written = io.BytesIO()
    with Encoded(path, name).open() as recording, _decoding(name):
        first, count = _frames(recording, excerpt, name)
        exact = _EXACT.get(recording.subtype)
        channels = 1 if excerpt.channel is not None else recording.channels
        _seek(recording, first, excerpt, name)
        how = {"subtype": exact or "FLOAT", "format": "WAV"}
        with soundfile.SoundFile(written, "w", recording.samplerate, channels, **how) as out:
            got = _copy(recording, out, count, excerpt.channel, exact=exact is not None)
        missing_s = 0.0 if count is None else (count - got) / recording.samplerate
        if not got or missing_s > OVERSHOOT_S:
            raise _beyond(name, excerpt, (first + got) / recording.samplerate)
    return written.getvalue()


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except (soundfile.SoundFileRuntimeError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        msg = f"{name} cannot be read as audio ({reason}).\nConvert it to WAV or FLAC."
        raise DataError(msg) from error


def _frames(recording: soundfile.SoundFile, excerpt: Excerpt, name: str) -> tuple[int, int | None]:
    """Return an excerpt's first frame, and how many it has; None: all that follow."""
    rate = recording.samplerate
    if excerpt.channel is not None and excerpt.channel >= recording.channels:
        msg = f"{name} has {recording.channels} channels, and none of number {excerpt.channel}"
        raise DataError(msg)
    end_s = excerpt.start_s + (excerpt.duration_s or 0.0)
    if end_s > MAX_S:
        raise too_long(name)
    first = round(excerpt.start_s * rate)
    return first, None if excerpt.duration_s is None else max(1, round(end_s * rate) - first)


def _seek(recording: soundfile.SoundFile, first: int, excerpt: Excerpt, name: str) -> None:
    """Go to a frame; what was written as a stream can only be read up to it."""
    if recording.seekable():
        if first >= recording.frames:
            raise _beyond(name, excerpt, recording.frames / recording.samplerate)
        recording.seek(first)
        return
    left, size = first, max(1, _BLOCK_VALUES // recording.channels)
    while left:
        read = len(recording.read(min(left, size), dtype="float32", always_2d=True))
        if not read:
            raise _beyond(name, excerpt, (first - left) / recording.samplerate)
        left -= read


def _copy(
    recording: soundfile.SoundFile,
    out: soundfile.SoundFile,
    count: int | None,
    channel: int | None,
    *,
    exact: bool,
) -> int:
    """Copy frames block by block, and return their number."""
    size, done = max(1, _BLOCK_VALUES // recording.channels), 0
    most = MAX_S * recording.samplerate if count is None else count
    dtype = "int32" if exact else "float32"
    while done < most:
        block = recording.read(min(size, most - done), dtype=dtype, always_2d=True)
        if not len(block):
            break
        out.write(block if channel is None else np.ascontiguousarray(block[:, [channel]]))
        done += len(block)
    return done


def _beyond(name: str, excerpt: Excerpt, ends_s: float) -> DataError:
    end = ""
    if excerpt.duration_s is not None:
        end = f" to {excerpt.start_s + excerpt.duration_s:.3f}"
    return DataError(
        f"{name} ends after {ends_s:.3f} s, and the part from {excerpt.start_s:.3f}{end} s of it "
        "is asked for"
    )
