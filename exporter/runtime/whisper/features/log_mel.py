"""Whisper's log-mel features in numpy, in float64, rounded once to float32.

transformers computes them in float32 and rounds at every step, which shows near silence: its
values are up to 3e-5 from those in float64. Sums in float64 also give every frame the same bits,
alone, in a window and in a long recording.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.mel import filtered, mel_filters
from exporter.runtime.transcript import Audio
from exporter.runtime.whisper.engine import Features

_FLOOR = 1e-10  # power below which it is silence
_RANGE = 8.0  # dynamic range below the loudest value, in decades
_STRETCH = 256  # frames per chunk, so that intermediate results fit the CPU's caches

Logs = NDArray[np.float64]
"""Logarithms of the powers of filters, [mels, frames]."""


class LogMel:
    """The features of one checkpoint.

    Attributes:
        rate: Samples a second.
        size: Samples of a frame.
        hop: Samples from one frame to the next.
        mels: Number of mel filters.
        samples: Samples of a window.
        frames: Frames of a window.
    """

    def __init__(
        self,
        mels: int = 80,
        *,
        rate: int = 16_000,
        size: int = 400,
        hop: int = 160,
        window_s: int = 30,
    ) -> None:
        self.mels, self.rate, self.size, self.hop = mels, rate, size, hop
        self.samples = window_s * rate
        self.frames = self.samples // hop
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        self._filters = mel_filters(mels, rate, size)

    def __call__(self, sounds: Sequence[Audio]) -> Features:
        """Compute features [recordings, mels, frames], with silence after short recordings.

        Args:
            sounds: Recordings of at most a window, float32 [samples].
        """
        features = np.empty((len(sounds), self.mels, self.frames), np.float32)
        for samples, row in zip(sounds, features, strict=True):
            self._fill(row, samples)
        return features

    def log_powers(self, padded: Audio, frames: int) -> Logs:
        """Return the logarithms of powers [mels, frames] of samples that begin with a frame.

        Args:
            padded: Samples, float32 [(frames - 1) * hop + size] or more.
            frames: How many.
        """
        pieces = np.lib.stride_tricks.sliding_window_view(padded, self.size)[:: self.hop]
        powers = np.empty((self.mels, frames))
        for start in range(0, frames, _STRETCH):
            stop = min(start + _STRETCH, frames)
            spectrum = np.fft.rfft(pieces[start:stop] * self._window)
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            powers[:, start:stop] = filtered(self._filters, power)
        logs: Logs = np.log10(np.maximum(powers, _FLOOR, out=powers), out=powers)
        return logs

    def _fill(self, features: NDArray[np.float32], samples: Audio) -> None:
        """Write one recording's features [mels, frames]; silence after it is not computed."""
        heard = min(self.frames, -(-(len(samples) + self.size // 2) // self.hop))
        logs = self.log_powers(self._padded(samples, heard), heard)
        loudest = logs.max()
        features[:, :heard] = scaled(logs, loudest)
        features[:, heard:] = scaled(np.log10(np.full((1, 1), _FLOOR)), loudest)

    def _padded(self, samples: Audio, frames: int) -> Audio:
        """Return the samples of `frames` frames.

        The first frame is centred on the first sample, so both ends of the window are reflected.
        """
        half = self.size // 2
        length = (frames - 1) * self.hop + self.size
        row = np.zeros(max(length, 2 * self.size), np.float32)
        row[half : half + len(samples)] = samples
        row[:half] = row[half + 1 : 2 * half + 1][::-1]
        beyond = len(row) - half - self.samples
        if beyond > 0:
            end = len(row) - beyond
            row[end:] = row[end - 1 - beyond : end - 1][::-1]
        return row[:length]


def scaled(logs: Logs, loudest: float) -> Logs:
    """Turn logarithms of powers into features, in place; `loudest` is the largest of all."""
    np.maximum(logs, loudest - _RANGE, out=logs)
    logs += 4.0
    logs /= 4.0
    return logs
