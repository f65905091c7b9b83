"""The inputs of models, as their checkpoints' feature extractors compute them.

Here are the protocol and raw samples; each kind of features that are not samples is in a module of
its own.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor

from exporter.runtime.ctc.features import SAMPLES, of_samples, padded, receptive_field
from exporter.runtime.transcript import Audio


class Input(Protocol):
    """How the samples of a recording become the input of a model.

    Attributes:
        name: The input's name.
        axis: The name of its axis of time, the first behind the batch.
        extractor_type: The value of `feature_extractor_type` in `preprocessor_config.json`.
    """

    name: str
    axis: str
    extractor_type: str

    def first_frame(self, config: Any) -> int:
        """Return the samples that the first frame of a model with this config takes."""
        ...

    def ratio(self, config: Any) -> int:
        """Return the samples between the beginnings of two frames of logits."""
        ...

    def example(self, config: Any, frames: int) -> tuple[int, ...]:
        """Return the shape, without the batch, of an input for so many frames of logits."""
        ...

    def extractor(self, settings: Mapping[str, Any]) -> Any:
        """Return the feature extractor with the checked settings of a checkpoint."""
        ...

    def features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return the input [1, ...] of a recording or chunk, without padding.

        Args:
            extractor: The result of `extractor`.
            samples: float32 [samples], at least one.
            fewest: Samples that the model needs for a frame; fewer are followed by zeros.
        """
        ...

    def original_features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return the same, computed by the feature extractor itself."""
        ...


class Samples:
    """Raw samples, with zero mean and unit variance if the feature extractor says so."""

    name = "input_values"
    axis = "samples"
    extractor_type = SAMPLES

    def first_frame(self, config: Any) -> int:
        """Return the receptive field of the front end."""
        return receptive_field(list(config.conv_kernel), list(config.conv_stride))

    def ratio(self, config: Any) -> int:
        """Return the stride of the front end."""
        ratio: int = config.inputs_to_logits_ratio
        return ratio

    def example(self, config: Any, frames: int) -> tuple[int, ...]:
        """Return a number of samples."""
        return (self.first_frame(config) + (frames - 1) * self.ratio(config),)

    def extractor(self, settings: Mapping[str, Any]) -> Any:
        """Return transformers' feature extractor."""
        return Wav2Vec2FeatureExtractor(**settings)

    def features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return input_values [1, samples], normalised before zeros follow."""
        made = of_samples(samples, fewest, normalized=bool(extractor.do_normalize))
        return torch.from_numpy(made)

    def original_features(self, extractor: Any, samples: Audio, fewest: int) -> Tensor:
        """Return the same, computed by transformers."""
        made = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
        values = made.input_values[0].astype("float32")
        return torch.from_numpy(padded(values, fewest))[None]
