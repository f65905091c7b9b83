"""Open encoded audio with libsndfile, and decode it block by block.

The values of a header are checked against limits, and memory is allocated for the frames that the
file has, not for those that its header claims.
"""

from __future__ import annotations

import io
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import soundfile

from exporter.errors import DataError
from exporter.formats.audio.samples import Samples
from exporter.formats.audio.wav_header import mended

RATES = range(1_000, 768_001)
MAX_S = 24 * 3600
_MAX_CHANNELS = 64
_BLOCK_VALUES = 1 << 18
UNKNOWN_FRAMES = 1 << 62  # of a FLAC file that was written as a stream
# Names of samples without a header, which do not tell how they are to be read.
_HEADERLESS = {".raw", ".pcm", ".sln", ".s16", ".s16le", ".ul", ".ulaw", ".al", ".alaw", ".gsm"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """An audio file on disk or in memory, and its name in messages."""

    data: Path | bytes
    name: str

    def open(self) -> soundfile.SoundFile:
        """Open it from its start.

        Raises:
            DataError: It is missing, no regular file, or no audio within the limits.
        """
        if isinstance(self.data, bytes):
            return _open(io.BytesIO(self.data), self.name)
        return _open(_regular_file(self.data, self.name), self.name)


def mono(recording: soundfile.SoundFile, name: str) -> Iterator[Samples]:
    """Yield the mean of the channels, some frames at a time.

    Raises:
        DataError: It cannot be decoded, is empty, longer than a day, or not finite.
    """
    left = MAX_S * recording.samplerate
    size = max(1, _BLOCK_VALUES // recording.channels)
    some = False
    while len(block := _read(recording, size, name)):
        left -= len(block)
        if left < 0:
            raise too_long(name)
        samples: Samples = block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(samples).all():
            msg = f"{name} holds samples that are not finite numbers: convert it again"
            raise DataError(msg)
        some = True
        yield samples
    if not some:
        raise no_audio(name)


def no_audio(name: str) -> DataError:
    """Return the error for a recording without a sample."""
    return DataError(f"{name} holds no audio: take it out of the data, or record it again")


def too_long(name: str) -> DataError:
    """Return the error for a recording longer than a day."""
    return DataError(f"{name} is longer than {MAX_S // 3600} hours: cut it")


def _read(recording: soundfile.SoundFile, frames: int, name: str) -> Samples:
    try:
        block: Samples = recording.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileRuntimeError, OSError) as error:
        raise _unreadable(name, error) from error
    return block


def _regular_file(path: Path, name: str) -> io.BufferedReader:
    """Open a file without waiting for the writer of a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        msg = f"audio file {name} does not exist"
        if path.is_symlink():
            msg = f"audio file {name} is a link to a file that does not exist"
        raise DataError(msg) from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        msg = f"audio file {name[:200]} cannot be opened: {reason}"
        raise DataError(msg) from error
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    what = "is empty: 0 bytes" if stat.S_ISREG(facts.st_mode) else "is not a regular file"
    msg = f"audio file {name} {what}"
    raise DataError(msg)


def _open(file: io.BufferedReader | io.BytesIO, name: str) -> soundfile.SoundFile:
    try:
        recording = _opened(file)
    except (soundfile.SoundFileRuntimeError, OSError) as error:
        raise _unreadable(name, error) from error
    if recording.samplerate in RATES and recording.channels <= _MAX_CHANNELS:
        if recording.frames >= UNKNOWN_FRAMES:  # soundfile would seek to an end that is not there
            recording.seekable = lambda: False
        return recording
    recording.close()
    msg = (
        f"{name} claims {recording.samplerate} samples a second in {recording.channels} channels.\n"
        f"{RATES.start} to {RATES.stop - 1} in at most {_MAX_CHANNELS} are read: convert it."
    )
    raise DataError(msg)


def _opened(file: io.BufferedReader | io.BytesIO) -> soundfile.SoundFile:
    """Open a file by its number, so that its name decides nothing; libsndfile then closes it."""
    better = mended(file)
    if better is not None:
        return soundfile.SoundFile(better)
    if isinstance(file, io.BytesIO):
        return soundfile.SoundFile(file)
    with file:
        descriptor = os.dup(file.fileno())
        # A reader that goes back inside its buffer, 128 KiB since Python 3.14, leaves the file be.
        os.lseek(descriptor, 0, os.SEEK_SET)
        return soundfile.SoundFile(descriptor)


def _unreadable(name: str, error: Exception) -> DataError:
    suffix = PurePath(name).suffix.lower()
    if suffix in _HEADERLESS:
        made = PurePath(name).with_suffix(".wav")
        return DataError(
            f"{name} cannot be read as audio: it has no header, which would tell its rate.\n"
            "Convert it, for 16-bit mono like: sox -t raw -r 16000 -e signed -b 16 -c 1 "
            f"{shlex.quote(name)} {shlex.quote(str(made))}"
        )
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return DataError(f"{name} cannot be read as audio ({reason}).\nConvert it to WAV or FLAC.")
