"""dynamic-int8 in torch: `quantized.linear_dynamic`."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exporter.quantization.convolution import FramesConvolution, unfolded_weight
from exporter.quantization.schemes.base import IntegerScheme
from exporter.system.hardware import describe
from exporter.targets.pytorch.modules.table import SharedTable


class Int8Linear(nn.Module):
    """A linear module with int8 weights, whose inputs are quantized to u8 at every call.

    `quantized.linear_dynamic` is the fastest int8 product of torch on x86: one call, with the
    weights packed for the CPU's instructions. If u8 x s8 products saturate (no VNNI), activations
    are limited to 7 bits.
    """

    def __init__(
        self,
        _module: nn.Module,
        _scheme: IntegerScheme,
        tensors: Mapping[str, Tensor],
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        weight = tensors["weight"]
        self.out_features, self.in_features = weight.shape
        self._reduce_range = not describe().vnni
        self._packed = packed(weight, tensors["scale"], bias)

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic(
            states, self._packed, self._reduce_range
        )
        return product


class ProductOfFrames(FramesConvolution):
    """A convolution: a product of unfolded frames with its weight."""

    def __init__(
        self,
        product: type[nn.Module],
        conv: nn.Conv1d,
        scheme: IntegerScheme,
        tensors: Mapping[str, Tensor],
        bias: Tensor | None,
    ) -> None:
        super().__init__(conv)
        unfolded = {**tensors, "weight": unfolded_weight(tensors["weight"])}
        self._product = product(conv, scheme, unfolded, bias)

    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""
        product: Tensor = self._product(self.rows(states).contiguous())
        return product


def packed(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """Return int8 weights [out, in] with scales [out] or [1] as torch's products take them."""
    columns = len(weight)
    with warnings.catch_warnings():  # torch warns that quantized tensors are deprecated
        warnings.simplefilter("ignore", UserWarning)
        numbers = torch._make_per_channel_quantized_tensor(
            weight.contiguous(),
            scale.double().expand(columns),
            torch.zeros(columns, dtype=torch.int64),
            0,
        )
    return torch.ops.quantized.linear_prepack(numbers, bias)


def make(
    module: nn.Module,
    scheme: IntegerScheme,
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
) -> nn.Module:
    """Return the module in the place of a linear one, a convolution, or a head's token table."""
    if isinstance(module, nn.Embedding):
        return SharedTable(tensors)
    if isinstance(module, nn.Conv1d):
        return ProductOfFrames(Int8Linear, module, scheme, tensors, bias)
    return Int8Linear(module, scheme, tensors, bias)
