"""dynamic-int8 in torch: `quantized.linear_dynamic`."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporter.quantization.schemes.base import IntegerScheme
from exporter.system.hardware import describe
from exporter.targets.pytorch.modules.table import SharedTable


def replacement(
    module: nn.Module,
    scheme: IntegerScheme,
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
) -> nn.Module:
    """Return the module in the place of a linear one, or of a table with a head's weights."""
    if isinstance(module, nn.Embedding):
        return SharedTable(tensors)
    return Int8Linear(module, scheme, tensors, bias)


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
        weight, scale = tensors["weight"], tensors["scale"]
        self.out_features, self.in_features = weight.shape
        self._reduce_range = not describe().vnni
        with warnings.catch_warnings():  # torch warns that quantized tensors are deprecated
            warnings.simplefilter("ignore", UserWarning)
            numbers = torch._make_per_channel_quantized_tensor(
                weight,
                scale.double().expand(self.out_features),
                torch.zeros(self.out_features, dtype=torch.int64),
                0,
            )
        self._packed = torch.ops.quantized.linear_prepack(numbers, bias)

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic(
            states, self._packed, self._reduce_range
        )
        return product
