"""The features of a long recording, computed window by window while `generate` moves over it.

They equal, bit for bit, those that transformers' extractor computes of the whole recording. Its
range ends 8 decades below the loudest value of all, so the recording is read twice: once for that
value, once for the windows. Memory does not follow the recording's length.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from exporter.errors import DataError
from exporter.families.whisper.decoding.log_mel import FEWEST, LogMel, scaled
from exporter.formats.audio import LongAudio
from exporter.runtime.transcript import Audio, Sound

_STRETCH = 3000  # frames at a time when the loudest value is looked for
_BLOCK_SAMPLES = 1 << 18


class LongFeatures:
    """Acts as the tensor [1, mels, frames] for `generate`, which takes slices of it in order.

    Attributes:
        shape: The shape of that tensor.
        device: The device of the slices.
        samples: The number of samples of the recording.
    """

    def __init__(self, mel: LogMel, sound: Sound, device: torch.device) -> None:
        """Read the whole recording once; raises DataError as its blocks do."""
        self.device = device
        self._mel = mel
        self._sound = sound
        self._reader = _Reader(sound, mel)
        frames = self._measure()
        self.shape = torch.Size((1, mel.mels, frames))

    def __getitem__(self, where: tuple[slice, slice, slice]) -> Tensor:
        """Return a slice of frames, with all of the two other axes."""
        frames = self.shape[-1]
        start = int(where[2].start or 0)
        stop = min(int(where[2].stop), frames)
        log = self._log(min(start, max(0, stop - FEWEST)), stop)
        scaled(log, self._loudest)
        return log[None, :, log.shape[1] - (stop - start) :].to(self.device)

    def _measure(self) -> int:
        """Find the loudest value of all frames; return their number."""
        loudest, start = torch.tensor(-torch.inf), 0
        while not self._reader.ends_before(start + _STRETCH + FEWEST):
            loudest = torch.maximum(loudest, self._log(start, start + _STRETCH).max())
            start += _STRETCH
        self.samples = self._reader.samples
        frames = self.samples // self._mel.hop
        self._loudest = torch.maximum(loudest, self._log(start, frames).max())
        return frames

    def _log(self, start: int, stop: int) -> Tensor:
        """Return the logarithms of powers [mels, frames] of some frames."""
        if start < self._reader.first:
            self._reader = _Reader(self._sound, self._mel)
        log = torch.empty(self._mel.mels, stop - start)
        self._mel.log_powers(torch.from_numpy(self._reader.read(start, stop)), log)
        return log


class _Reader:
    """Reads a recording forwards, both ends reflected by half a frame, some frames at a time.

    Attributes:
        first: The first frame that can still be read.
        samples: The samples that were read of the recording.
    """

    def __init__(self, sound: Sound, mel: LogMel) -> None:
        self.first = self.samples = 0
        self._mel = mel
        self._blocks = _blocks(sound)
        self._name = getattr(sound, "name", "audio")
        self._held = np.empty(0, np.float32)
        self._ended = False
        half = mel.size // 2
        self._pull(half + 1)
        self._held = np.concatenate([self._held[half:0:-1], self._held])

    def read(self, start: int, stop: int) -> Audio:
        """Return the samples of some frames; the next may begin `FEWEST` frames before these."""
        hop, first = self._mel.hop, max(self.first, start - FEWEST)
        end = (stop - 1) * hop + self._mel.size
        self._pull(end - self.first * hop)
        self._held = self._held[(first - self.first) * hop :]
        self.first = first
        samples = self._held[(start - first) * hop : end - first * hop].copy()
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


def _blocks(sound: Sound) -> Iterator[Audio]:
    if isinstance(sound, LongAudio):
        return iter(sound)
    starts: Iterable[int] = range(0, len(sound), _BLOCK_SAMPLES)
    return (sound[start : start + _BLOCK_SAMPLES] for start in starts)
