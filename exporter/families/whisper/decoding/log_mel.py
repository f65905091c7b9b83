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

from exporter.runtime.transcript import Audio

_FLOOR = 1e-10  # power below which it is silence
_RANGE = 8.0  # dynamic range below the loudest value, in decades
FEWEST = 32  # frames: products with fewer columns round differently
_STRETCH = 512  # frames per chunk, so that intermediate results fit the CPU's caches


class LogMel:
    """One extractor's window function, mel filters, and number of frames in a window of audio.

    Attributes:
        size: Samples of a frame.
        hop: Samples from one frame to the next.
        mels: Number of mel filters.
    """

    def __init__(self, extractor: Any) -> None:
        self.size: int = extractor.n_fft
        self.hop: int = extractor.hop_length
        self._samples = extractor.n_samples
        self._frames = extractor.n_samples // extractor.hop_length
        self._window = torch.hann_window(extractor.n_fft)
        self._filters = torch.from_numpy(extractor.mel_filters).float()  # [frequencies, mels]
        self.mels: int = self._filters.shape[1]

    def __call__(self, audio: Sequence[Audio]) -> Tensor:
        """Compute features [recordings, mels, frames], with silence after short recordings.

        Args:
            audio: Recordings of at most a window, float32 [samples].
        """
        features = torch.empty(len(audio), self.mels, self._frames)
        for samples, row in zip(audio, features, strict=True):
            self._fill(row, samples)
        return features

    def log_powers(self, padded: Tensor, into: Tensor) -> None:
        """Write the logarithms of powers [mels, frames] of samples that begin with a frame.

        Args:
            padded: Samples, float32 [(frames - 1) * hop + size].
            into: The result; no fewer than `FEWEST` frames.
        """
        pieces, frames = padded.unfold(0, self.size, self.hop), into.shape[1]
        start = 0
        while start < frames:
            end = start + _STRETCH
            end = frames if frames - end < FEWEST else end
            power = torch.fft.rfft(pieces[start:end] * self._window).abs().square_()
            into[:, start:end] = self._filters.t() @ power.t()
            start = end
        into.clamp_min_(_FLOOR).log10_()

    def _fill(self, features: Tensor, samples: Audio) -> None:
        """Write one recording's features [mels, frames]."""
        frames = -(-(len(samples) + self.size // 2) // self.hop)
        frames = min(self._frames, -(-frames // FEWEST) * FEWEST)
        log = features[:, :frames]
        self.log_powers(self._padded(samples, frames), log)
        lowest = scaled(log, log.max())
        silence = torch.tensor(_FLOOR).log10()
        features[:, frames:] = torch.maximum(silence, lowest).add_(4.0).div_(4.0)

    def _padded(self, samples: Audio, frames: int) -> Tensor:
        """Return the samples of `frames` frames.

        The first frame is centred on the first sample, so both ends of the window are reflected.
        """
        half = self.size // 2
        length = (frames - 1) * self.hop + self.size
        padded = torch.zeros(max(length, 2 * self.size))
        row = padded.numpy()
        row[half : half + len(samples)] = samples
        row[:half] = row[half + 1 : 2 * half + 1][::-1]
        end = half + self._samples
        if len(row) > end:
            beyond = len(row) - end
            row[end:] = row[end - 1 - beyond : end - 1][::-1]
        return padded[:length]


def scaled(log: Tensor, loudest: Tensor) -> Tensor:
    """Turn logarithms of powers into features, in place; return the lowest logarithm kept."""
    lowest = loudest - _RANGE
    torch.maximum(log, lowest, out=log)
    log.add_(4.0).div_(4.0)
    return lowest


_prepared: WeakKeyDictionary[Any, LogMel] = WeakKeyDictionary()


def log_mel(extractor: Any) -> LogMel | None:
    """Return the extractor's `LogMel`, created at first use; None for an unknown extractor."""
    usual = type(extractor) is WhisperFeatureExtractor and not extractor.dither
    if not usual or extractor.padding_value != 0.0 or extractor.padding_side != "right":
        return None
    if extractor not in _prepared:
        _prepared[extractor] = LogMel(extractor)
    return _prepared[extractor]
