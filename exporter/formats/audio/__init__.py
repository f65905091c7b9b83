"""Read any recording as float32 mono at a model's rate: files, their bytes, and arrays.

Does not import torch, because the validator's parent process and `exporter transcribe` check audio
before any model is opened. Recordings are decoded and resampled in blocks, and those longer than
`WHOLE_S` stay on disk as `LongAudio`, so memory does not follow their length.
"""

from __future__ import annotations

import hashlib
import io
import operator
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsIndex, TypeAlias, TypeGuard, Union

import numpy as np
import soxr
from numpy.typing import NDArray

from exporter.errors import DataError
from exporter.formats.audio import files
from exporter.formats.audio.files import RATES
from exporter.formats.audio.files import Encoded as Encoded  # re-exported for importers
from exporter.formats.audio.samples import Samples as Samples  # re-exported for importers
from exporter.formats.audio.samples import to_mono
from exporter.formats.audio.spans import Span, cut
from exporter.system.files import readable_name

if TYPE_CHECKING:
    import torch

Recording: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    BinaryIO,
    NDArray[Any],
    "torch.Tensor",
    Encoded,
]
"""One recording: a path, an encoded file's bytes or open file, or samples in an array or tensor.

Or `Encoded`: a path or bytes with a name for messages.
"""

KINDS = "a path, an encoded file's bytes, a binary file object, a numpy array or a torch tensor"
WHOLE_S = 120  # a longer recording is not kept in memory
_MAX_BYTES = 4 << 30  # the largest size that a WAV file's header can express
_BLOCK_BYTES = 1 << 20
_BLOCK_SAMPLES = 1 << 18


class LongAudio:
    """An encoded recording longer than `WHOLE_S`: decoded anew each time that it is iterated.

    Iterating yields consecutive blocks, float32 [samples] at `rate` Hz, and raises DataError where
    the recording cannot be used.
    """

    def __init__(self, source: Encoded, rate: int, spans: Sequence[Span] | None = None) -> None:
        """Take up a recording, or only some spans of its samples: see `parts`."""
        self._source = source
        self._spans = spans
        self.rate = rate

    @property
    def name(self) -> str:
        """The recording's name in messages."""
        return self._source.name

    def __iter__(self) -> Iterator[Samples]:
        read = _blocks(self._source, self.rate)
        return read if self._spans is None else (part for _, part in cut(read, self._spans))

    def parts(self, spans: Sequence[Span]) -> LongAudio:
        """Return some spans of the whole recording, joined; they are in order, and apart."""
        return LongAudio(self._source, self.rate, spans)


def blocks(sound: Samples | LongAudio) -> Iterator[Samples]:
    """Return an iterator over a recording's samples, block by block."""
    if isinstance(sound, LongAudio):
        return iter(sound)
    starts = range(0, len(sound), _BLOCK_SAMPLES)
    return (sound[start : start + _BLOCK_SAMPLES] for start in starts)


def parts(sound: Samples | LongAudio, spans: Sequence[Span]) -> Samples | LongAudio:
    """Return some spans of a recording, joined; they are in order, and apart."""
    if isinstance(sound, LongAudio):
        return sound.parts(spans)
    return np.concatenate([sound[:0], *(sound[start:stop] for start, stop in spans)])


def excerpts(sound: Samples | LongAudio, groups: Sequence[Sequence[Span]]) -> Iterator[Samples]:
    """Yield the samples of groups of spans, joined; the recording is read once.

    Args:
        sound: The recording.
        groups: Spans in order, and apart; none is empty.

    Raises:
        DataError: It cannot be read, or is shorter than the spans: it was changed.
    """
    spans = [span for group in groups for span in group]
    group_of = [index for index, group in enumerate(groups) for _ in group]
    pieces = groupby(cut(blocks(sound), spans), key=lambda piece: group_of[piece[0]])
    for group in groups:
        _, together = next(pieces, (None, ()))
        samples = np.concatenate([np.empty(0, np.float32), *(part for _, part in together)])
        if len(samples) < sum(stop - start for start, stop in group):
            msg = (
                f"{getattr(sound, 'name', 'audio')} changed while it was read: transcribe it again"
            )
            raise DataError(msg)
        yield samples


def whole(sound: Samples | LongAudio) -> Samples:
    """Return all samples of a recording: memory then follows its length."""
    return _joined(iter(sound)) if isinstance(sound, LongAudio) else sound


def head(sound: Samples | LongAudio, samples: int) -> Samples:
    """Return the first `samples` of a recording, or all that it has."""
    if not isinstance(sound, LongAudio):
        return sound[:samples]
    pieces: list[Samples] = []
    for block in sound:
        pieces.append(block)
        if sum(map(len, pieces)) >= samples:
            break
    return np.concatenate(pieces)[:samples]


def is_recording(value: object) -> TypeGuard[Recording]:
    """Return True if a value is one recording, not an iterable of several."""
    encoded = isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Encoded))
    return encoded or hasattr(value, "read") or hasattr(value, "__array__")


def load(
    recording: Recording, rate: int, sampling_rate: int | None, name: str
) -> Samples | LongAudio:
    """Convert one recording to mono float32 at a model's rate.

    Args:
        recording: A path, bytes, binary file object, array or tensor: see `Recording`.
        rate: The rate of the result in Hz.
        sampling_rate: The rate of an array or tensor in Hz. Encoded audio has its own.
        name: The name in messages of a recording that has no path.

    Returns:
        float32 [samples] at `rate` Hz, full scale at 1.0; encoded audio longer than `WHOLE_S` is
        checked so far only, and decoded further when it is iterated.

    Raises:
        DataError: It cannot be decoded, is empty, out of bounds or not finite, an array comes
            without `sampling_rate`, or its type or shape is ambiguous.
    """
    if isinstance(recording, Encoded):  # with a name of its own
        return _loaded(recording, rate)
    if isinstance(recording, (str, os.PathLike)):
        return _loaded(_on_disk(Path(recording)), rate)
    if isinstance(recording, (bytes, bytearray, memoryview)):
        return _loaded(_encoded(bytes(recording), name), rate)
    if hasattr(recording, "read"):
        return _loaded(_encoded(_contents(recording, name), name), rate)
    if not is_recording(recording):
        msg = f"{name} is of type {type(recording).__name__}: give {KINDS}"
        raise DataError(msg)
    if sampling_rate is None:
        msg = (
            f"{name} is an array, which does not tell its rate: add sampling_rate=..., in Hz\n"
            f"(sampling_rate={rate} for what this model takes as it is; others are resampled)."
        )
        raise DataError(msg)
    return _resampled(to_mono(recording, name), sampling_rate, rate, name)


def require_rate(sampling_rate: object) -> int:
    """Return a caller's rate in Hz as an integer; raise DataError if it is not valid."""
    if isinstance(sampling_rate, SupportsIndex) and not isinstance(sampling_rate, bool):
        rate = operator.index(sampling_rate)
        if rate in RATES:
            return rate
    msg = (
        f"sampling_rate={sampling_rate!r:.40}: give whole samples a second, "
        f"{RATES.start} to {RATES.stop - 1}, like sampling_rate=16000"
    )
    raise DataError(msg)


def read(path: Path | str, rate: int) -> Samples | LongAudio:
    """Decode a file (wav, flac, mp3, ogg ...), average its channels, and resample it.

    Args:
        path: The file.
        rate: The rate of the result in Hz.

    Returns:
        As `load` does.

    Raises:
        DataError: The file is missing, cannot be decoded, is empty, out of bounds, or holds values
            that are not finite.
    """
    return load(path, rate, None, str(path))


def duration_s(path: Path | str) -> float:
    """Decode a file, and return its seconds of audio; see `examined`."""
    return examined(path)[0]


def examined(path: Path | str) -> tuple[float, str]:
    """Decode a file, and return its seconds of audio and the sha256 of its sound.

    All of it is decoded, because a fault near its end is better told now than after hours of work.
    The hash is over the rate and the mean of the channels, float32 [samples]: a copy has it under
    any name, and in any format without loss.

    Raises:
        DataError: As `read` raises it.
    """
    source = _on_disk(Path(path))
    with source.open() as recording:
        sound = hashlib.sha256(f"{recording.samplerate} Hz".encode())
        frames = 0
        for block in files.mono(recording, source.name):
            sound.update(block.data)
            frames += len(block)
        return float(frames / recording.samplerate), sound.hexdigest()


def _on_disk(path: Path) -> Encoded:
    return Encoded(path, readable_name(str(path)))


def _encoded(data: bytes, name: str) -> Encoded:
    if not data:
        msg = f"{name} holds no bytes: give a whole audio file, read from its start"
        raise DataError(msg)
    return Encoded(data, name)


def _contents(file: Any, name: str) -> bytes:
    """Read the rest of an open file into memory, because decoding seeks and pipes cannot."""
    pieces = io.BytesIO()
    try:
        while piece := file.read(_BLOCK_BYTES):
            if not isinstance(piece, bytes):
                msg = f'{name} is a file of text: open it with mode "rb"'
                raise DataError(msg)
            if pieces.tell() + len(piece) > _MAX_BYTES:
                msg = f"{name} is longer than {_MAX_BYTES >> 30} GiB: cut it"
                raise DataError(msg)
            pieces.write(piece)
    except (OSError, ValueError) as error:  # a closed file's is a ValueError
        msg = f"{name} cannot be read: {error}"
        raise DataError(msg) from error
    return pieces.getvalue()


def _loaded(source: Encoded, rate: int) -> Samples | LongAudio:
    """Decode a recording, or return it as `LongAudio` as soon as it proves to be long."""
    pieces: list[Samples] = []
    left = WHOLE_S * rate
    for block in _blocks(source, rate):
        pieces.append(block)
        left -= len(block)
        if left < 0:
            return LongAudio(source, rate)
    return _joined(iter(pieces))


def _joined(blocks: Iterator[Samples]) -> Samples:
    """Join blocks in one buffer that grows, so that they are not in memory twice."""
    samples = bytearray()
    for block in blocks:
        samples += block.data.cast("B")
    return np.frombuffer(samples, dtype=np.float32)


def _blocks(source: Encoded, rate: int) -> Iterator[Samples]:
    """Yield a recording's samples at a model's rate, block by block, none of them empty."""
    with source.open() as recording:
        resampler = _resampler(recording.samplerate, rate)
        some = False
        for block in files.mono(recording, source.name):
            if len(samples := resampler.resample_chunk(block)):
                some = True
                yield samples
        samples = resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)
        if len(samples):
            yield samples
        elif not some:
            raise files.no_audio(source.name)


def _resampler(sampling_rate: int, rate: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(sampling_rate, rate, 1, dtype="float32", quality="VHQ")


def _resampled(mono: Samples, sampling_rate: int, rate: int, name: str) -> Samples:
    if sampling_rate == rate:
        return mono
    samples = soxr.resample(mono, sampling_rate, rate, quality="VHQ")
    if not len(samples):
        raise files.no_audio(name)
    return np.ascontiguousarray(samples, dtype=np.float32)
