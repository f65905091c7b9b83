"""The inputs of models: raw samples, Kaldi's filter banks, or Parakeet's log-mel features.

Each kind is computed from the samples of one recording or chunk, without padding for a batch.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.errors import CheckpointError
from exporter.runtime.ctc.fbank import fbank
from exporter.runtime.ctc.log_mel import LogMel
from exporter.runtime.transcript import Audio

Values = NDArray[np.float32]
"""The input of a model, with a batch of one: [1, ...]."""

SAMPLES, FBANK, LOG_MEL = EXTRACTORS = (
    "Wav2Vec2FeatureExtractor",
    "SeamlessM4TFeatureExtractor",
    "ParakeetFeatureExtractor",
)
"""The values of `feature_extractor_type` in `preprocessor_config.json`."""

_EPSILON = 1e-7  # of Wav2Vec2FeatureExtractor
_BANK, _HOP = 400, 160  # samples of a filter bank or log-mel frame, and between two
_PAIR = 2  # filter banks in a row
# transformers' defaults of `config.json` and `preprocessor_config.json`.
_STRIDES, _KERNELS = (5, 2, 2, 2, 2, 2, 2), (10, 3, 3, 3, 3, 2, 2)
_RATE, _MELS, _PREEMPHASIS, _SUBSAMPLING = 16_000, 80, 0.97, 8
_BERT, PARAKEET = "wav2vec2-bert", "parakeet_ctc"


class Input(Protocol):
    """How the samples of a recording become the input of a model.

    Attributes:
        name: The input's name.
        rate: The sampling rate in Hz.
        ratio: Samples between the beginnings of two frames of logits.
    """

    @property
    def name(self) -> str: ...
    @property
    def rate(self) -> int: ...
    @property
    def ratio(self) -> int: ...

    def __call__(self, samples: Audio) -> Values:
        """Return the input [1, ...] of samples float32 [samples], at least one."""
        ...


def input_of(config: Mapping[str, Any], extractor: Mapping[str, Any]) -> Input:
    """Return how audio becomes the input of a model.

    Args:
        config: The content of `config.json`.
        extractor: That of `preprocessor_config.json`.

    Raises:
        CheckpointError: A value is not one that such a model has.
    """
    kind = config.get("model_type")
    rate = whole(extractor, "sampling_rate", _RATE, 1_000, 768_000)
    expected = {_BERT: FBANK, PARAKEET: LOG_MEL}.get(str(kind), SAMPLES)
    if extractor.get("feature_extractor_type", SAMPLES) != expected:
        msg = f"preprocessor_config.json: a {kind!r:.60} model needs {expected}"
        raise CheckpointError(msg)
    if expected == FBANK:
        return _FilterBanks(config, extractor, rate)
    if expected == LOG_MEL:
        return _LogMels(config, extractor, rate)
    return _Samples(config, extractor, rate)


class _Samples:
    name = "input_values"

    def __init__(self, config: Mapping[str, Any], extractor: Mapping[str, Any], rate: int) -> None:
        kernels, strides = (
            _sizes(config, name, usual)
            for name, usual in (("conv_kernel", _KERNELS), ("conv_stride", _STRIDES))
        )
        if len(kernels) != len(strides):
            msg = "config.json: conv_stride and conv_kernel have different lengths"
            raise CheckpointError(msg)
        self.rate, self.ratio = rate, prod(strides)
        self._fewest = receptive_field(kernels, strides)
        self._normalized = extractor.get("do_normalize", True) is not False

    def __call__(self, samples: Audio) -> Values:
        return of_samples(samples, self._fewest, normalized=self._normalized)


class _FilterBanks:
    name = "input_features"

    def __init__(self, config: Mapping[str, Any], extractor: Mapping[str, Any], rate: int) -> None:
        layers = 0
        if config.get("add_adapter"):
            layers = whole(config, "num_adapter_layers", 1, 1, 8)
        joined = 2**layers
        self.rate, self.ratio = rate, bank_ratio(joined)
        self._mels = whole(extractor, "num_mel_bins", _MELS, 1, 256)

    def __call__(self, samples: Audio) -> Values:
        return of_banks(samples, first_banks(1), self._mels)


class _LogMels:
    name = "input_features"

    def __init__(self, config: Mapping[str, Any], extractor: Mapping[str, Any], rate: int) -> None:
        encoder = config.get("encoder_config")
        encoder = encoder if isinstance(encoder, dict) else {}
        factor = whole(encoder, "subsampling_factor", _SUBSAMPLING, 2, 16)
        self.rate, self.ratio = rate, _HOP * factor
        preemphasis = extractor.get("preemphasis", _PREEMPHASIS)
        if preemphasis is not None and type(preemphasis) not in (int, float):
            msg = "preprocessor_config.json: preemphasis is no number"
            raise CheckpointError(msg)
        mels = whole(extractor, "feature_size", _MELS, 1, 256)
        self._features = LogMel(rate, mels, preemphasis)

    def __call__(self, samples: Audio) -> Values:
        return self._features(padded(samples, 2 * _HOP))


def of_samples(samples: Audio, fewest: int, *, normalized: bool) -> Values:
    """Return input_values [1, samples], normalised before zeros follow.

    Args:
        samples: float32 [samples], at least one.
        fewest: Samples that the model needs for a frame; fewer are followed by zeros.
        normalized: Whether to give them zero mean and unit variance.
    """
    if normalized:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + _EPSILON)
    return np.ascontiguousarray(padded(samples, fewest), np.float32)[None]


def of_banks(samples: Audio, fewest: int, mels: int) -> Values:
    """Return input_features [1, rows, 2 * mels] of samples float32 [samples], at least one."""
    banks = fbank(padded(samples, fewest), mels)
    rows = len(banks) // _PAIR
    return np.ascontiguousarray(banks[: rows * _PAIR].reshape(1, rows, -1))


def bank_ratio(joined: int) -> int:
    """Return the samples of so many rows of filter banks."""
    return _HOP * _PAIR * joined


def first_banks(rows: int) -> int:
    """Return the samples that so many rows of filter banks take."""
    return _BANK + (_PAIR * rows - 1) * _HOP


def padded(values: Audio, fewest: int) -> Audio:
    """Return samples, followed by zeros if there are fewer than `fewest`."""
    return np.pad(values, (0, max(fewest - len(values), 0)))


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the samples that a stack of convolutions needs for one frame."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def whole(values: Mapping[str, Any], name: str, usual: int, least: int, most: int) -> int:
    """Return a whole number of a config, in its limits; raise CheckpointError for another value."""
    value = values.get(name, usual)
    if type(value) is not int or not least <= value <= most:
        msg = f"{name} is {value!r:.40}: this is no CTC model's"
        raise CheckpointError(msg)
    return value


def _sizes(config: Mapping[str, Any], name: str, usual: Sequence[int]) -> list[int]:
    """Return the sizes of a stack of convolutions, in their limits."""
    values = config.get(name, usual)
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 32:
        msg = f"config.json: {name} is no list of sizes: this is no CTC model's"
        raise CheckpointError(msg)
    return [whole({name: value}, name, 1, 1, 4096) for value in values]
