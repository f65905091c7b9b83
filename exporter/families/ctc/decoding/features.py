"""The inputs of a model of raw samples, as its checkpoint's feature extractor computes them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.families.transcript import Audio

_EPSILON = 1e-7  # of Wav2Vec2FeatureExtractor


def features(extractor: Any, samples: Audio, fewest: int) -> Tensor:
    """Return input_values [1, samples] of a recording or chunk, which is not padded.

    Args:
        extractor: transformers' feature extractor, for its settings.
        samples: float32 [samples], at least one.
        fewest: Samples that the model needs for a frame; fewer are followed by zeros.
    """
    values = samples
    if extractor.do_normalize:
        values = (values - values.mean()) / np.sqrt(values.var() + _EPSILON)
    if len(values) < fewest:
        values = np.pad(values, (0, fewest - len(values)))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]


def original_features(extractor: Any, samples: Audio, fewest: int) -> Tensor:
    """Return the same, computed by the feature extractor itself."""
    made = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
    values = np.asarray(made.input_values, dtype=np.float32)
    missing = max(fewest - values.shape[1], 0)
    return torch.from_numpy(np.pad(values, ((0, 0), (0, missing))))
