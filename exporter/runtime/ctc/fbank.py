"""Kaldi's filter banks, as transformers' SeamlessM4TFeatureExtractor computes them.

Source: `spectrogram` of transformers.audio_utils, whose operations and order are kept, so that
values are equal bit for bit.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.mel import filtered, triangles
from exporter.runtime.transcript import Audio

_RATE, _FFT, _SIZE, _HOP = 16_000, 512, 400, 160
_FULL_SCALE = 1 << 15  # Kaldi takes 16-bit samples
_PREEMPHASIS = 0.97
_FLOOR = 1.192092955078125e-07
_EPSILON = 1e-7
_LOWEST_HZ = 20
_STRETCH = 256  # frames per chunk, so that intermediate results fit the CPU's caches


def fbank(samples: Audio, mels: int) -> NDArray[np.float32]:
    """Return filter banks [frames, mels], each bank normalised over the recording.

    Args:
        samples: float32 [samples] at 16 kHz, of two frames at least.
        mels: Number of filters.
    """
    values = (samples * _FULL_SCALE).astype(np.float64)
    pieces = np.lib.stride_tricks.sliding_window_view(values, _SIZE)[::_HOP]
    spectrum = np.empty((len(pieces), _FFT // 2 + 1), np.complex64)
    window = _window()
    for start in range(0, len(pieces), _STRETCH):
        frames = pieces[start : start + _STRETCH]
        frames = frames - frames.mean(1, keepdims=True)
        frames[:, 1:] -= _PREEMPHASIS * frames[:, :-1]
        frames[:, 0] *= 1 - _PREEMPHASIS
        spectrum[start : start + len(frames)] = np.fft.rfft(frames * window, _FFT)
    powers = np.abs(spectrum, dtype=np.float64) ** 2.0
    logs = np.log(np.maximum(_FLOOR, filtered(_filters(mels), powers)))
    banks = np.asarray(logs, np.float32).T
    normalised = (banks - banks.mean(0)[None]) / np.sqrt(banks.var(0, ddof=1)[None] + _EPSILON)
    values32: NDArray[np.float32] = np.asarray(normalised, np.float32)
    return values32


@cache
def _window() -> NDArray[np.float64]:
    """Return Povey's window."""
    window: NDArray[np.float64] = np.power(np.hanning(_SIZE), 0.85)
    return window


@cache
def _filters(mels: int) -> NDArray[np.float64]:
    """Return triangles [mels, frequencies] on Kaldi's mel scale, from 20 Hz to half the rate."""
    top = _kaldi(np.array(_RATE // 2))
    edges = np.linspace(_kaldi(np.array(_LOWEST_HZ)), top, mels + 2)
    bins = _RATE / _FFT * np.arange(_FFT // 2 + 1, dtype=np.float64)
    return triangles(edges, _kaldi(bins))


def _kaldi(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    mels: NDArray[np.float64] = 1127.0 * np.log(1.0 + hertz / 700.0)
    return mels
