"""Whisper's log-mel features, bit for bit those of transformers' extractor.

They are identical, because the least difference can change an int8 activation, and then a token.
The extractor goes through lists, padding and a batch object, and computes the silence after a short
recording like other audio; this class avoids both, and works on chunks that fit the CPU's caches.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from exporter.families.transcript import Audio

_FLOOR = 1e-10  # power below which it is silence
_RANGE = 8.0  # dynamic range below the loudest value, in decades
_TOGETHER = 32  # frames: products with fewer columns round differently
_STRETCH = 512  # frames per chunk, so that intermediate results fit the CPU's caches


class LogMel:
    """One extractor's window function, mel filters, and number of frames in a window of audio."""

    def __init__(self, extractor: Any) -> None:
        self._size = extractor.n_fft
        self._hop = extractor.hop_length
        self._samples = extractor.n_samples
        self._frames = extractor.n_samples // extractor.hop_length
        self._window = torch.hann_window(extractor.n_fft)
        self._filters = torch.from_numpy(extractor.mel_filters).float()  # [frequencies, mels]

    def __call__(self, audio: Sequence[Audio]) -> Tensor:
        """Compute features [recordings, mels, frames], with silence after short recordings.

        Args:
            audio: Recordings of at most a window, float32 [samples].
        """
        features = torch.empty(len(audio), self._filters.shape[1], self._frames)
        for samples, row in zip(audio, features, strict=True):
            self._fill(row, samples)
        return features

    def _fill(self, features: Tensor, samples: Audio) -> None:
        """Write one recording's features [mels, frames]."""
        frames = -(-(len(samples) + self._size // 2) // self._hop)
        frames = min(self._frames, -(-frames // _TOGETHER) * _TOGETHER)
        pieces = self._padded(samples, frames).unfold(0, self._size, self._hop)
        for start in range(0, frames, _STRETCH):
            spectrum = torch.fft.rfft(pieces[start : start + _STRETCH] * self._window)
            power = spectrum.abs().square_()
            features[:, start : start + len(power)] = self._filters.t() @ power.t()
        log = features[:, :frames].clamp_min_(_FLOOR).log10_()
        lowest = log.max() - _RANGE
        torch.maximum(log, lowest, out=log)
        log.add_(4.0).div_(4.0)
        silence = torch.tensor(_FLOOR).log10()
        features[:, frames:] = torch.maximum(silence, lowest).add_(4.0).div_(4.0)

    def _padded(self, samples: Audio, frames: int) -> Tensor:
        """Return the samples of `frames` frames.

        The first frame is centred on the first sample, so both ends of the window are reflected.
        """
        half = self._size // 2
        length = (frames - 1) * self._hop + self._size
        padded = torch.zeros(max(length, 2 * self._size))
        row = padded.numpy()
        row[half : half + len(samples)] = samples
        row[:half] = row[half + 1 : 2 * half + 1][::-1]
        end = half + self._samples
        if len(row) > end:
            beyond = len(row) - end
            row[end:] = row[end - 1 - beyond : end - 1][::-1]
        return padded[:length]


_prepared: WeakKeyDictionary[Any, LogMel] = WeakKeyDictionary()


def log_mel(extractor: Any) -> LogMel | None:
    """Return the extractor's `LogMel`, created at first use; None for an unknown extractor."""
    usual = type(extractor) is WhisperFeatureExtractor and not extractor.dither
    if not usual or extractor.padding_value != 0.0 or extractor.padding_side != "right":
        return None
    if extractor not in _prepared:
        _prepared[extractor] = LogMel(extractor)
    return _prepared[extractor]
