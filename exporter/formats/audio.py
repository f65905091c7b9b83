"""Read any recording as float32 mono at a model's rate.

Kept without torch: the validator's parent process and `exporter transcribe` look at audio before
any model is opened. Decoding is libsndfile's, resampling is soxr's best quality. What a header
promises is held against bounds, and memory follows what the file really holds.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from exporter.errors import DataError

Samples = NDArray[np.float32]

_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 64
_MAX_S = 24 * 3600
_BLOCK_FRAMES = 1 << 18


def read(path: Path | str, rate: int) -> Samples:
    """Decode a recording (wav, flac, mp3, ogg ...), average its channels, resample to `rate` Hz.

    Gives float32 [samples], full scale at 1.0. Raises DataError, naming the file, when there is no
    such file, or when it cannot be decoded, is empty, out of bounds or holds values that are not
    finite.
    """
    path = Path(path)
    with _open(path) as recording:
        try:
            pieces = list(_mono(path, recording))
        except soundfile.SoundFileRuntimeError as error:
            raise _unreadable(path, error) from error
        found = recording.samplerate
    if not pieces:
        msg = f"{path} holds no audio: take it out of the data, or record it again"
        raise DataError(msg)
    mono = np.concatenate(pieces)
    if not np.isfinite(mono).all():
        msg = f"{path} holds samples that are not finite numbers: convert it again"
        raise DataError(msg)
    return np.ascontiguousarray(soxr.resample(mono, found, rate, quality="VHQ"), dtype=np.float32)


def duration_s(path: Path | str) -> float:
    """Seconds of audio that the file's header promises; the errors are those of `read`."""
    path = Path(path)
    with _open(path) as recording:
        if not recording.frames:
            msg = f"{path} holds no audio: take it out of the data, or record it again"
            raise DataError(msg)
        return float(recording.frames / recording.samplerate)


def _mono(path: Path, recording: soundfile.SoundFile) -> Iterator[Samples]:
    """The mean of the channels, some frames at a time, however many the header promises."""
    left = _MAX_S * recording.samplerate
    while len(block := recording.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        left -= len(block)
        if left < 0:
            msg = f"{path} is longer than {_MAX_S // 3600} hours: cut it"
            raise DataError(msg)
        yield block.mean(axis=1, dtype=np.float32)


def _open(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        reason = "is not a regular file" if path.exists() else "does not exist"
        msg = f"audio file {path} {reason}"
        raise DataError(msg)
    try:
        recording = soundfile.SoundFile(os.fsencode(path))  # names need not be UTF-8
    except (soundfile.SoundFileRuntimeError, OSError) as error:
        raise _unreadable(path, error) from error
    if recording.samplerate in _RATES and recording.channels <= _MAX_CHANNELS:
        return recording
    recording.close()
    msg = (
        f"{path} claims {recording.samplerate} samples a second in {recording.channels} channels.\n"
        f"{_RATES.start} to {_RATES.stop - 1} in at most {_MAX_CHANNELS} are read: convert it."
    )
    raise DataError(msg)


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return DataError(f"{path} cannot be read as audio ({reason}).\nConvert it to WAV or FLAC.")
