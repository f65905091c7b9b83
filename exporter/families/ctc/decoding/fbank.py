"""Kaldi's filter banks, the input of wav2vec2-bert: two frames of 80 mels in a row of 160 numbers.

transformers' feature extractor pads an odd number of frames by one, and its mask hides the row with
that frame. Such a row is left out here, which is the same to a model: its convolutions see no later
frames, and nothing attends to a hidden one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SeamlessM4TFeatureExtractor

from exporter.runtime.ctc.features import FBANK, bank_ratio, first_banks, of_banks, padded
from exporter.runtime.transcript import Audio


class Fbank:
    """Rows of filter banks, each bank normalised over the recording by transformers."""

    name = "input_features"
    axis = "rows"
    extractor_type = FBANK

    def first_frame(self, config: Any) -> int:
        """Return the samples of as many rows as the first frame takes, at least one."""
        return first_banks(self._rows(config, 1))

    def ratio(self, config: Any) -> int:
        """Return the samples of a row, or of all rows that an adapter joins."""
        return bank_ratio(_joined(config))

    def example(self, config: Any, frames: int) -> tuple[int, ...]:
        """Return a number of rows, and their width."""
        return (self._rows(config, frames), config.feature_projection_input_dim)

    def extractor(self, settings: Mapping[str, Any]) -> Any:
        """Return transformers' feature extractor."""
        return SeamlessM4TFeatureExtractor(**settings)

    def features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return input_features [1, rows, 160], without padding."""
        return torch.from_numpy(of_banks(samples, fewest, extractor.num_mel_bins))

    def original_features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return the same, computed by transformers."""
        made = extractor(
            padded(samples, fewest), sampling_rate=extractor.sampling_rate, return_tensors="np"
        )
        heard = int(made.attention_mask[0].sum())
        values = np.ascontiguousarray(made.input_features[:, :heard], np.float32)
        return torch.from_numpy(values)

    def _rows(self, config: Any, frames: int) -> int:
        return max((frames - 1) * _joined(config) + 1, 1)


def _joined(config: Any) -> int:
    """Return the rows between two frames of logits."""
    layers = config.num_adapter_layers if config.add_adapter else 0
    joined: int = config.adapter_stride**layers
    return joined
