"""Parameters of a CTC model that checkpoints store in another form."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from exporter.families.ctc.graphs.layers import core
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
    whole = core(model)
    if hasattr(whole, _MASKED):
        delattr(whole, _MASKED)


def without_weight_norm(model: Any) -> None:
    """Replace the weight norm of a model's positional convolution by its weight."""
    conv = getattr(getattr(core(model).encoder, "pos_conv_embed", None), "conv", None)
    if conv is not None and parametrize.is_parametrized(conv, "weight"):
        parametrize.remove_parametrizations(conv, "weight")


def without_batch_norm(model: Any) -> None:
    """Replace the batch norms of a skeleton by what `derived` computes."""
    for name, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm1d):
            owner, _, leaf = name.rpartition(".")
            with torch.device("meta"):
                scale = ChannelScale(norm.num_features, norm.weight.dtype)
            setattr(model.get_submodule(owner), leaf, scale)


def derived(prefix: str, norm: str, layers: int) -> dict[str, Sequence[Derivation]]:
    """Return the forms in which a positional convolution and batch norms may be stored.

    Args:
        prefix: How the names of the encoder's parameters begin.
        norm: The name of a batch norm behind it, with `{}` for a layer's index.
        layers: The number of layers.
    """
    conv = f"{prefix}encoder.pos_conv_embed.conv"
    forms: dict[str, Sequence[Derivation]] = {
        f"{conv}.weight": [
            Derivation((f"{conv}.{length}", f"{conv}.{direction}"), weight_norm)
            for length, direction in _PARTS
        ]
    }
    forms |= {
        f"lm_head.{leaf}": [Derivation((f"ctc_head.{leaf}",), _of_one_frame)]
        for leaf in ("weight", "bias")
    }
    for name in dict.fromkeys(prefix + norm.format(layer) for layer in range(layers)):
        forms |= _batch_norm(name)
    return forms


def _batch_norm(norm: str) -> dict[str, Sequence[Derivation]]:
    weight, bias = f"{norm}.weight", f"{norm}.bias"
    mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
    return {
        f"{norm}.scale": [Derivation((weight, variance), _scale)],
        f"{norm}.shift": [Derivation((bias, weight, mean, variance), _shift)],
    }


def weight_norm(length: Tensor, direction: Tensor) -> Tensor:
    """Return a kernel [out, in, width] from a length for each place [1, 1, width]."""
    norm = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    kernel: Tensor = direction * (length / norm)
    return kernel


def _of_one_frame(parameter: Tensor) -> Tensor:
    """Return a linear module's parameter for that of a convolution [out, in, 1]."""
    return parameter.squeeze(-1) if parameter.ndim > 1 else parameter


def _scale(weight: Tensor, variance: Tensor) -> Tensor:
    return weight / (variance + _EPSILON).sqrt()


def _shift(bias: Tensor, weight: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return bias - mean * _scale(weight, variance)
