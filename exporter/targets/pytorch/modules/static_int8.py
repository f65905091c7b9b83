"""static-int8 in torch: `quantized.linear` with its inputs and outputs in float.

`quantized.linear` alone takes and gives quantized tensors, which no layer around it does. This
operator quantizes its inputs with a given scale, multiplies in integers, and returns float32.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.static_int8 import LARGEST
from exporter.system.hardware import describe
from exporter.targets.pytorch.modules.dynamic_int8 import ProductOfFrames, packed

NARROW = 127
"""The largest code of inputs on CPUs without VNNI, where sums of larger ones saturate."""


class StaticLinear(nn.Module):
    """A linear module with int8 weights, whose inputs are quantized with a constant scale."""

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
        self._packed = packed(weight, tensors["scale"], bias)
        self._step = float(tensors["input_scale"])
        self._zero = int(tensors["input_zero_point"])
        self._ends: tuple[float, float] | None = None
        if not describe().vnni:
            self._step, self._zero, self._ends = narrowed(self._step, self._zero)

    def forward(self, states: Tensor) -> Tensor:
        inside = states if self._ends is None else states.clamp(*self._ends)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inside.contiguous(), self._step, self._zero, self._packed
        )
        return product


def narrowed(step: float, zero: int) -> tuple[float, int, tuple[float, float]]:
    """Return scale and zero point of the same range in 7 bits, and the ends of its codes."""
    wide = step * LARGEST / NARROW
    point = round(zero * NARROW / LARGEST)
    return wide, point, (-point * wide, (NARROW - point) * wide)


def make(
    module: nn.Module,
    scheme: IntegerScheme,
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
) -> nn.Module:
    """Return the module in the place of a linear one or of a convolution."""
    if isinstance(module, nn.Conv1d):
        return ProductOfFrames(StaticLinear, module, scheme, tensors, bias)
    return StaticLinear(module, scheme, tensors, bias)
