"""Parameters of a CTC model that checkpoints store in another form."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from exporter.families.derived import Derivation

_EPSILON = 1e-5  # of torch's batch norm, which no config sets
_MASKED = "masked_spec_embed"
# The two parts of a weight norm, its length and direction, as torch names them today and before.
_PARTS = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)


class ChannelScale(nn.Module):
    """A batch norm in evaluation: a factor and an offset for each channel."""

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(channels, dtype=dtype))
        self.shift = nn.Parameter(torch.empty(channels, dtype=dtype))

    def forward(self, states: Tensor) -> Tensor:
        """Return scaled states [batch, channels, frames]."""
        return states * self.scale[:, None] + self.shift[:, None]

    def frames(self, states: Tensor) -> Tensor:
        """Return scaled states [batch, frames, channels]."""
        return states * self.scale + self.shift


def unmask(model: Any) -> None:
    """Remove the vector that replaces masked features in training, where a model has it."""
    core = getattr(model, model.base_model_prefix)
    if hasattr(core, _MASKED):
        delattr(core, _MASKED)


def without_weight_norm(model: Any) -> None:
    """Replace the weight norm of a model's positional convolution by its weight."""
    conv = getattr(_embedding(model), "conv", None)
    if conv is not None and parametrize.is_parametrized(conv, "weight"):
        parametrize.remove_parametrizations(conv, "weight")


def without_batch_norm(model: Any) -> None:
    """Replace the batch norm of a skeleton's positional embedding by what `derived` computes."""
    embedding = _embedding(model)
    norm = getattr(embedding, "batch_norm", None)
    if norm is not None:
        with torch.device("meta"):
            embedding.batch_norm = ChannelScale(norm.num_features, norm.weight.dtype)


def _embedding(model: Any) -> Any:
    return getattr(model, model.base_model_prefix).encoder.pos_conv_embed


def derived(prefix: str) -> Mapping[str, Sequence[Derivation]]:
    """Return the forms in which a positional embedding's convolution and norm may be stored.

    Args:
        prefix: How the names of the encoder's parameters begin.
    """
    embedding = f"{prefix}encoder.pos_conv_embed"
    conv, norm = f"{embedding}.conv", f"{embedding}.batch_norm"
    weight, bias = f"{norm}.weight", f"{norm}.bias"
    mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
    return {
        f"{conv}.weight": [
            Derivation((f"{conv}.{length}", f"{conv}.{direction}"), weight_norm)
            for length, direction in _PARTS
        ],
        f"{norm}.scale": [Derivation((weight, variance), _scale)],
        f"{norm}.shift": [Derivation((bias, weight, mean, variance), _shift)],
    }


def weight_norm(length: Tensor, direction: Tensor) -> Tensor:
    """Return a kernel [out, in, width] from a length for each place [1, 1, width]."""
    norm = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    kernel: Tensor = direction * (length / norm)
    return kernel


def _scale(weight: Tensor, variance: Tensor) -> Tensor:
    return weight / (variance + _EPSILON).sqrt()


def _shift(bias: Tensor, weight: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return bias - mean * _scale(weight, variance)
