"""Parakeet's log-mel features, with the arithmetic of transformers' ParakeetFeatureExtractor.

That class cannot be used: it takes its filters from librosa, which is not installed here. The
filters are those of transformers' `mel_filter_bank`, which differ from librosa's by roundings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from exporter.families.ctc.decoding.features import padded
from exporter.runtime.transcript import Audio

_FFT, _WINDOW, _HOP = 512, 400, 160  # samples; `config_limits` allows no other numbers
_GUARD = 2.0**-24  # added to powers before their logarithm
_EPSILON = 1e-5  # added to standard deviations


class Extractor:
    """What transformers' extractor does with one recording.

    Attributes:
        sampling_rate: The rate of samples in Hz.
    """

    def __init__(self, sampling_rate: int, feature_size: int, preemphasis: float | None) -> None:
        self.sampling_rate = sampling_rate
        self._preemphasis = preemphasis
        self._window = torch.hann_window(_WINDOW, periodic=False)
        filters = mel_filter_bank(
            num_frequency_bins=_FFT // 2 + 1,
            num_mel_filters=feature_size,
            min_frequency=0.0,
            max_frequency=sampling_rate / 2,
            sampling_rate=sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self._filters = torch.from_numpy(filters).float().t()

    def __call__(self, samples: Audio) -> Tensor:
        """Return features [1, frames, mels] of samples float32 [samples], of two hops at least.

        Each mel has zero mean and unit variance over the frames. The last frame of torch's
        transform, which transformers hides by its mask, is left out.
        """
        values = torch.from_numpy(samples)
        if self._preemphasis is not None:
            values = torch.cat((values[:1], values[1:] - self._preemphasis * values[:-1]))
        spectrum = torch.stft(
            values[None],
            _FFT,
            hop_length=_HOP,
            win_length=_WINDOW,
            window=self._window,
            return_complex=True,
            pad_mode="constant",
        )
        powers = torch.view_as_real(spectrum).square().sum(-1).sqrt().square()
        mels = torch.log(self._filters @ powers + _GUARD).transpose(1, 2)
        mels = mels[:, : len(samples) // _HOP]
        std, mean = torch.std_mean(mels, 1, keepdim=True)
        return (mels - mean) / (std + _EPSILON)


class LogMel:
    """Log-mel features, each mel normalised over the recording."""

    name = "input_features"
    axis = "feature_frames"
    extractor_type = "ParakeetFeatureExtractor"

    def first_frame(self, config: Any) -> int:  # noqa: ARG002
        """Return the samples of two frames of features: one has no variance."""
        return 2 * _HOP

    def ratio(self, config: Any) -> int:
        """Return the samples of the frames of features that become one."""
        factor: int = config.encoder_config.subsampling_factor
        return _HOP * factor

    def example(self, config: Any, frames: int) -> tuple[int, ...]:
        """Return a number of frames of features, and their width."""
        encoder = config.encoder_config
        return ((frames - 1) * encoder.subsampling_factor + 1, encoder.num_mel_bins)

    def extractor(self, settings: Mapping[str, Any]) -> Any:
        """Return our feature extractor."""
        names = ("sampling_rate", "feature_size", "preemphasis")
        return Extractor(**{name: settings[name] for name in names})

    def features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return input_features [1, feature frames, mels]."""
        made: Tensor = extractor(padded(samples, fewest))
        return made

    original_features = features
