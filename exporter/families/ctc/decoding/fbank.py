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

from exporter.families.ctc.decoding.features import padded
from exporter.runtime.transcript import Audio

_WINDOW, _HOP = 400, 160  # samples, constants of transformers' feature extractor
_STRIDE = 2  # frames in a row; `config_limits` allows no other number


class Fbank:
    """Rows of filter banks, each bank normalised over the recording by transformers."""

    name = "input_features"
    axis = "rows"
    extractor_type = "SeamlessM4TFeatureExtractor"

    def first_frame(self, config: Any) -> int:
        """Return the samples of as many rows as the first frame takes, at least one."""
        frames = _STRIDE * self._rows(config, 1)
        return _WINDOW + (frames - 1) * _HOP

    def ratio(self, config: Any) -> int:
        """Return the samples of a row, or of all rows that an adapter joins."""
        return _HOP * _STRIDE * _joined(config)

    def example(self, config: Any, frames: int) -> tuple[int, ...]:
        """Return a number of rows, and their width."""
        return (self._rows(config, frames), config.feature_projection_input_dim)

    def extractor(self, settings: Mapping[str, Any]) -> Any:
        """Return transformers' feature extractor."""
        return SeamlessM4TFeatureExtractor(**settings)

    def features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return input_features [1, rows, 160] as transformers computes them, without padding."""
        made = extractor(
            padded(samples, fewest), sampling_rate=extractor.sampling_rate, return_tensors="np"
        )
        heard = int(made.attention_mask[0].sum())
        values = np.ascontiguousarray(made.input_features[:, :heard], np.float32)
        return torch.from_numpy(values)

    original_features = features

    def _rows(self, config: Any, frames: int) -> int:
        return max((frames - 1) * _joined(config) + 1, 1)


def _joined(config: Any) -> int:
    """Return the rows between two frames of logits."""
    layers = config.num_adapter_layers if config.add_adapter else 0
    joined: int = config.adapter_stride**layers
    return joined
