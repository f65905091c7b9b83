"""The features of a long recording, computed window by window while decoding moves over it.

They are those of the whole recording. Their range ends 8 decades below the loudest value of all,
so the recording is read twice: once for that value, once for the windows. Memory does not follow
the recording's length.
"""

import numpy as np
from numpy.typing import NDArray

from exporter.errors import DataError
from exporter.formats.audio import blocks
from exporter.runtime.transcript import Audio, Sound
from exporter.runtime.whisper.features.log_mel import LogMel, Logs, scaled

_STRETCH = 3000  # frames at a time when the loudest value is looked for


class LongLogMel:
    """The features [mels, frames] of a recording, which are taken in order.

    Attributes:
        frames: How many there are.
        samples: The number of samples of the recording.
    """

    def __init__(self, mel: LogMel, sound: Sound) -> None:
        """Read the whole recording once; raises DataError as its blocks do."""
        self._mel = mel
        self._sound = sound
        self._reader = _Reader(sound, mel)
        self.frames = self._measure()

    def part(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the features [mels, stop - start] of some frames.

        `start` is at or after that of the call before: before it, the recording is read again.
        """
        return scaled(self._logs(start, stop), self._loudest).astype(np.float32)

    def _measure(self) -> int:
        """Find the loudest value of all frames; return their number."""
        loudest, start = -np.inf, 0
        while not self._reader.ends_before(start + _STRETCH + 1):
            loudest = max(loudest, self._logs(start, start + _STRETCH).max())
            start += _STRETCH
        self.samples = self._reader.samples
        frames = self.samples // self._mel.hop
        self._loudest = float(max(loudest, self._logs(start, frames).max()))
        return frames

    def _logs(self, start: int, stop: int) -> Logs:
        if start < self._reader.first:
            self._reader = _Reader(self._sound, self._mel)
        return self._mel.log_powers(self._reader.read(start, stop), stop - start)


class _Reader:
    """Reads a recording forwards, both ends reflected by half a frame, some frames at a time.

    Attributes:
        first: The first frame that can still be read.
        samples: The samples that were read of the recording.
    """

    def __init__(self, sound: Sound, mel: LogMel) -> None:
        self.first = self.samples = 0
        self._mel = mel
        self._blocks = blocks(sound)
        self._name = getattr(sound, "name", "audio")
        self._held = np.empty(0, np.float32)
        self._ended = False
        half = mel.size // 2
        self._pull(half + 1)
        self._held = np.concatenate([self._held[half:0:-1], self._held])

    def read(self, start: int, stop: int) -> Audio:
        """Return the samples of some frames; the next may begin where these do."""
        hop = self._mel.hop
        end = (stop - 1) * hop + self._mel.size
        self._pull(end - self.first * hop)
        self._held = self._held[(start - self.first) * hop :]
        self.first = start
        samples = self._held[: end - start * hop]
        if len(samples) < end - start * hop:
            msg = f"{self._name} changed while it was read: transcribe it again"
            raise DataError(msg)
        return samples

    def ends_before(self, frame: int) -> bool:
        """Return whether the recording ends before a frame's end; reads on up to it."""
        self._pull((frame - self.first) * self._mel.hop + self._mel.size)
        return self._ended

    def _pull(self, samples: int) -> None:
        """Read on until so many samples are held, or all."""
        pieces, have = [self._held], len(self._held)
        while have < samples and not self._ended:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                block = self._reflected(np.concatenate(pieces))
            else:
                self.samples += len(block)
            pieces.append(block)
            have += len(block)
        self._held = np.concatenate(pieces) if len(pieces) > 1 else self._held

    def _reflected(self, held: Audio) -> Audio:
        half = self._mel.size // 2
        return held[-half - 1 : -1][::-1]
