"""Read any recording as float32 mono at a model's rate: files, their bytes, and arrays.

Does not import torch, because the validator's parent process and `exporter transcribe` check audio
before any model is opened. libsndfile decodes, soxr resamples in its best quality. The values of a
header are checked against limits, and memory is allocated for the frames that the file has, not for
those that its header claims.
"""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsIndex, TypeAlias, TypeGuard, Union

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from exporter.errors import DataError
from exporter.formats.samples import Samples as Samples  # re-exported for importers of this module
from exporter.formats.samples import to_mono

if TYPE_CHECKING:
    import torch

Recording: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, NDArray[Any], "torch.Tensor"
]
"""One recording: a path, an encoded file's bytes or open file, or samples in an array or tensor."""

KINDS = "a path, an encoded file's bytes, a binary file object, a numpy array or a torch tensor"
_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 64
_MAX_S = 24 * 3600
_MAX_BYTES = 4 << 30  # the largest size that a WAV file's header can express
_BLOCK_FRAMES = 1 << 18
_BLOCK_BYTES = 1 << 20


def is_recording(value: object) -> TypeGuard[Recording]:
    """Return True if a value is one recording, not an iterable of several."""
    encoded = isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview))
    return encoded or hasattr(value, "read") or hasattr(value, "__array__")


def load(recording: Recording, rate: int, sampling_rate: int | None, name: str) -> Samples:
    """Convert one recording to mono float32 at a model's rate.

    Args:
        recording: A path, bytes, binary file object, array or tensor: see `Recording`.
        rate: The rate of the result in Hz.
        sampling_rate: The rate of an array or tensor in Hz. Encoded audio has its own.
        name: The name in messages of a recording that has no path.

    Returns:
        float32 [samples] at `rate` Hz, full scale at 1.0.

    Raises:
        DataError: It cannot be decoded, is empty, out of bounds or not finite, an array comes
            without `sampling_rate`, or its type or shape is ambiguous.
    """
    if isinstance(recording, (str, os.PathLike)):
        return read(Path(recording), rate)
    if isinstance(recording, (bytes, bytearray, memoryview)):
        return _read_bytes(bytes(recording), rate, name)
    if hasattr(recording, "read"):
        return _read_bytes(_contents(recording, name), rate, name)
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
        if rate in _RATES:
            return rate
    msg = (
        f"sampling_rate={sampling_rate!r:.40}: give whole samples a second, "
        f"{_RATES.start} to {_RATES.stop - 1}, like sampling_rate=16000"
    )
    raise DataError(msg)


def read(path: Path | str, rate: int) -> Samples:
    """Decode a file (wav, flac, mp3, ogg ...), average its channels, and resample it.

    Args:
        path: The file.
        rate: The rate of the result in Hz.

    Returns:
        float32 [samples] at `rate` Hz, full scale at 1.0.

    Raises:
        DataError: The file is missing, cannot be decoded, is empty, out of bounds, or holds values
            that are not finite.
    """
    path = Path(path)
    with _open_file(path) as recording:
        return _decoded(recording, rate, str(path))


def duration_s(path: Path | str) -> float:
    """Return the seconds of audio in a file's header.

    Raises:
        DataError: The file is missing, cannot be decoded, or is empty.
    """
    path = Path(path)
    with _open_file(path) as recording:
        if not recording.frames:
            raise _no_audio(str(path))
        return float(recording.frames / recording.samplerate)


def _read_bytes(encoded: bytes, rate: int, name: str) -> Samples:
    if not encoded:
        msg = f"{name} holds no bytes: give a whole audio file, read from its start"
        raise DataError(msg)
    with _open(io.BytesIO(encoded), name) as recording:
        return _decoded(recording, rate, name)


def _contents(file: Any, name: str) -> bytes:
    """Read the rest of an open file into memory, because decoding seeks and pipes cannot."""
    pieces: list[bytes] = []
    left = _MAX_BYTES
    try:
        while piece := file.read(_BLOCK_BYTES):
            if not isinstance(piece, bytes):
                msg = f'{name} is a file of text: open it with mode "rb"'
                raise DataError(msg)
            left -= len(piece)
            if left < 0:
                msg = f"{name} is longer than {_MAX_BYTES >> 30} GiB: cut it"
                raise DataError(msg)
            pieces.append(piece)
    except (OSError, ValueError) as error:  # a closed file's is a ValueError
        msg = f"{name} cannot be read: {error}"
        raise DataError(msg) from error
    return b"".join(pieces)


def _decoded(recording: soundfile.SoundFile, rate: int, name: str) -> Samples:
    try:
        pieces = list(_mono(recording, name))
    except soundfile.SoundFileRuntimeError as error:
        raise _unreadable(name, error) from error
    if not pieces:
        raise _no_audio(name)
    mono = np.concatenate(pieces)
    if not np.isfinite(mono).all():
        msg = f"{name} holds samples that are not finite numbers: convert it again"
        raise DataError(msg)
    return _resampled(mono, recording.samplerate, rate, name)


def _resampled(mono: Samples, sampling_rate: int, rate: int, name: str) -> Samples:
    samples = soxr.resample(mono, sampling_rate, rate, quality="VHQ")
    if not len(samples):
        raise _no_audio(name)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _mono(recording: soundfile.SoundFile, name: str) -> Iterator[Samples]:
    """Yield the mean of the channels, some frames at a time, at most 24 hours."""
    left = _MAX_S * recording.samplerate
    while len(block := recording.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        left -= len(block)
        if left < 0:
            msg = f"{name} is longer than {_MAX_S // 3600} hours: cut it"
            raise DataError(msg)
        yield block.mean(axis=1, dtype=np.float32)


def _open_file(path: Path) -> soundfile.SoundFile:
    try:
        regular, exists = path.is_file(), path.exists()
    except OSError as error:  # the name is too long, or the folder is not readable
        msg = f"audio file {str(path)[:200]} cannot be opened: {error.strerror}"
        raise DataError(msg) from error
    if not regular:
        reason = "is not a regular file" if exists else "does not exist"
        msg = f"audio file {path} {reason}"
        raise DataError(msg)
    return _open(os.fsencode(path), str(path))  # a file name need not be valid text


def _open(file: bytes | io.BytesIO, name: str) -> soundfile.SoundFile:
    try:
        recording = soundfile.SoundFile(file)
    except (soundfile.SoundFileRuntimeError, OSError) as error:
        raise _unreadable(name, error) from error
    except TypeError as error:  # for names that end with `.raw`
        raise _unreadable(name, "samples without a header") from error
    if recording.samplerate in _RATES and recording.channels <= _MAX_CHANNELS:
        return recording
    recording.close()
    msg = (
        f"{name} claims {recording.samplerate} samples a second in {recording.channels} channels.\n"
        f"{_RATES.start} to {_RATES.stop - 1} in at most {_MAX_CHANNELS} are read: convert it."
    )
    raise DataError(msg)


def _unreadable(name: str, error: Exception | str) -> DataError:
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return DataError(f"{name} cannot be read as audio ({reason}).\nConvert it to WAV or FLAC.")


def _no_audio(name: str) -> DataError:
    return DataError(f"{name} holds no audio: take it out of the data, or record it again")
