"""weight-int4 and weight-int8 in ONNX: `MatMulNBits` of onnxruntime."""

from typing import Any

import torch
from onnx.defs import OpSchema
from torch import Tensor, nn

from exporter.quantization.modules import OwnLayout, meta_parameter
from exporter.quantization.schemes.weight_only import WeightOnly, grouped, round_groups, unpacked
from exporter.targets.onnx.attention import MICROSOFT, operator

ACCURACY_LEVEL = 4
"""onnxruntime then rounds inputs to int8 per group; below it multiplies in float32."""


@torch.library.custom_op("exporter::matmul_nbits", mutates_args=())
def matmul_nbits(
    states: Tensor, weight: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, group: int
) -> Tensor:
    """Multiply states [..., in], rounded to int8 per group, by codes uint8 [out, groups, bytes]."""
    codes = grouped(unpacked(weight.flatten(1), bits).float(), group)
    zeros: float | Tensor = 2.0 ** (bits - 1)
    if zero_point is not None:
        zeros = unpacked(zero_point, bits)[:, : scale.shape[1], None].float()
    numbers = ((codes - zeros) * scale[..., None]).flatten(1)[:, : states.shape[-1]]
    return round_groups(states, group) @ numbers.t()


@matmul_nbits.register_fake
def _(
    states: Tensor,
    weight: Tensor,
    _scale: Tensor,
    _zero_point: Tensor | None,
    _bits: int,
    _group: int,
) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


class GroupedMatMul(OwnLayout):
    """A linear module with codes [out, groups, bytes of a group], the last group padded."""

    def __init__(self, linear: nn.Linear, scheme: WeightOnly, _integers: torch.dtype) -> None:
        super().__init__()
        shape = linear.out_features, linear.in_features
        leaves = scheme.layout(shape, torch.float32)
        self._bytes = scheme.group_size * scheme.BITS // 8
        self._bits, self._group = scheme.BITS, scheme.group_size
        self.weight = meta_parameter((shape[0], scheme.groups(shape[1]), self._bytes), torch.uint8)
        self.scale = meta_parameter(leaves["scale"][1], linear.weight.dtype)
        zeros = leaves.get("zero_point")
        self.zero_point = None if zeros is None else meta_parameter(zeros[1], zeros[0])
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        scale = self.scale.to(states.dtype)
        product: Tensor = matmul_nbits(
            states, self.weight, scale, self.zero_point, self._bits, self._group
        )
        return product if self.bias is None else product + self.bias.to(states.dtype)

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the codes by groups."""
        return grouped(tensor, self._bytes) if leaf == "weight" else tensor


_INTEGERS = ("K", "N", "bits", "block_size", "accuracy_level")
_NODE = operator(
    MICROSOFT,
    "MatMulNBits",
    4,
    1,
    *(OpSchema.Attribute(name, OpSchema.AttrType.INT) for name in _INTEGERS),
    required=3,
)


def matmul_nbits_nodes(
    states: Any, weight: Any, scale: Any, zero_point: Any, bits: int, group: int
) -> Any:
    """Return the node of `MatMulNBits` that multiplies integers."""
    return nbits(states, weight, scale, zero_point, bits, group, ACCURACY_LEVEL)


def float_matmul_nbits_nodes(
    states: Any, weight: Any, scale: Any, zero_point: Any, bits: int, group: int
) -> Any:
    """Return the node of `MatMulNBits` that multiplies in the type of the states."""
    return nbits(states, weight, scale, zero_point, bits, group, None)


def nbits(
    states: Any,
    weight: Any,
    scale: Any,
    zero_point: Any,
    bits: int,
    group: int,
    accuracy_level: int | None,
) -> Any:
    """Return the node of `MatMulNBits` at an accuracy level, or at the runtime's own."""
    inputs = [states, weight, scale, *([] if zero_point is None else [zero_point])]
    level = {} if accuracy_level is None else {"accuracy_level": accuracy_level}
    width, out = int(states.shape[-1]), int(weight.shape[0])
    return _NODE(*inputs, K=width, N=out, bits=bits, block_size=group, **level)


replacement = GroupedMatMul
NODES = {matmul_nbits: matmul_nbits_nodes}
