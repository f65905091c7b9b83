"""Parakeet's log-mel features.

transformers' class for them cannot be used: it takes its filters from librosa, which is not
installed here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exporter.runtime.ctc import log_mel
from exporter.runtime.ctc.features import LOG_MEL, padded
from exporter.runtime.transcript import Audio

_HOP = 160  # samples; `config_limits` allows no other number


class LogMel:
    """Log-mel features, each mel normalised over the recording."""

    name = "input_features"
    axis = "feature_frames"
    extractor_type = LOG_MEL

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
        mels, preemphasis = settings["feature_size"], settings["preemphasis"]
        return log_mel.LogMel(settings["sampling_rate"], mels, preemphasis)

    def features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return input_features [1, feature frames, mels]."""
        return torch.from_numpy(extractor(padded(samples, fewest)))

    original_features = features
