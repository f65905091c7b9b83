"""Read any recording as float32 mono at a model's rate.

Kept without torch: the validator's parent process and `exporter transcribe` look at audio before
any model is opened. Decoding is libsndfile's, resampling is soxr's best quality.
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from exporter.errors import DataError

Samples = NDArray[np.float32]


def read(path: Path | str, rate: int) -> Samples:
    """Decode a recording (wav, flac, mp3, ogg ...), average its channels, resample to `rate` Hz.

    Gives float32 [samples], full scale at 1.0. Raises DataError, naming the file, when there is no
    such file, or when it cannot be decoded, is empty or holds values that are not finite.
    """
    path = Path(path)
    with _open(path) as recording:
        try:
            channels = recording.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileRuntimeError as error:
            raise _unreadable(path, error) from error
        found = recording.samplerate
    if not len(channels):
        msg = f"{path} holds no audio: take it out of the data, or record it again"
        raise DataError(msg)
    mono = channels.mean(axis=1, dtype=np.float32)
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


def _open(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        reason = "is not a regular file" if path.exists() else "does not exist"
        msg = f"audio file {path} {reason}"
        raise DataError(msg)
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileRuntimeError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return DataError(f"{path} cannot be read as audio ({reason}).\nConvert it to WAV or FLAC.")
