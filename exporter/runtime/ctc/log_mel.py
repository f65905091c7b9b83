"""Parakeet's log-mel features in numpy, in float64, rounded once to float32.

Source: ParakeetFeatureExtractor of transformers, whose filters are librosa's.
"""

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.mel import filtered, mel_filters
from exporter.runtime.transcript import Audio

_FFT, _SIZE, _HOP = 512, 400, 160  # samples
_GUARD = 2.0**-24  # added to powers before their logarithm
_EPSILON = 1e-5  # added to standard deviations
_STRETCH = 256  # frames per chunk, so that intermediate results fit the CPU's caches


class LogMel:
    """The features of one checkpoint.

    Attributes:
        sampling_rate: The rate of samples in Hz.
    """

    def __init__(self, sampling_rate: int, mels: int, preemphasis: float | None) -> None:
        self.sampling_rate = sampling_rate
        self._preemphasis = preemphasis
        self._window = np.hanning(_SIZE)
        self._filters = mel_filters(mels, sampling_rate, _FFT)

    def __call__(self, samples: Audio) -> NDArray[np.float32]:
        """Return features [1, frames, mels] of samples float32 [samples], of two hops at least.

        Each mel has zero mean and unit variance over the frames. The last frame of torch's
        transform, which transformers hides by its mask, is left out.
        """
        logs = self._logs(samples, len(samples) // _HOP)
        mean, std = logs.mean(1, keepdims=True), logs.std(1, ddof=1, keepdims=True)
        features = (logs - mean) / (std + _EPSILON)
        return np.ascontiguousarray(features.T[None], np.float32)

    def _logs(self, samples: Audio, frames: int) -> NDArray[np.float64]:
        """Return the logarithms of powers [mels, frames]; the first frame's centre is sample 0."""
        values = samples.astype(np.float64)
        if self._preemphasis is not None:
            values[1:] -= self._preemphasis * values[:-1]
        values = np.pad(values, _SIZE // 2)  # the window is in the middle of the transform
        pieces = np.lib.stride_tricks.sliding_window_view(values, _SIZE)[::_HOP]
        logs = np.empty((len(self._filters), frames))
        for start in range(0, frames, _STRETCH):
            stop = min(start + _STRETCH, frames)
            spectrum = np.fft.rfft(pieces[start:stop] * self._window, _FFT)
            powers = np.square(spectrum.real) + np.square(spectrum.imag)
            logs[:, start:stop] = np.log(filtered(self._filters, powers) + _GUARD)
        return logs
