"""dynamic-int8 in ONNX: `DynamicQuantizeLinear` and `MatMulInteger`."""

from typing import Any

import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from exporter.quantization.convolution import (
    FramesConvolution,
    convolved_like,
    unfold,
    unfolded_weight,
)
from exporter.quantization.modules import OwnLayout, meta_parameter
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.targets.onnx.modules import integers


@torch.library.custom_op("exporter::int8_matmul", mutates_args=())
def int8_matmul(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply states [..., in], quantized to u8 with one scale, by an int8 weight [in, out]."""
    low, high = states.amin().clamp_max(0.0), states.amax().clamp_min(0.0)
    step = (high - low) / 255
    zero = (-low / step).round().clamp(0, 255)
    codes = (states / step).round().add(zero).clamp(0, 255) - zero
    return (codes @ integers.numbers(weight)) * (step * scale)


@int8_matmul.register_fake
def _(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[1]))


class Int8MatMul(OwnLayout):
    """A linear module with an int8 weight [in, out], or the same plus 128 as uint8."""

    def __init__(self, linear: nn.Linear, scheme: DynamicInt8, dtype: torch.dtype) -> None:
        super().__init__()
        scales = linear.out_features if scheme.per_channel else 1
        self.weight = meta_parameter((linear.in_features, linear.out_features), dtype)
        self.scale = meta_parameter((scales,), torch.float32)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = int8_matmul(states, self.weight, self.scale)
        return product if self.bias is None else product + self.bias

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the codes as [in, out], in the type of the graph."""
        return integers.stored(tensor, self.weight.dtype) if leaf == "weight" else tensor


@torch.library.custom_op("exporter::int8_frames", mutates_args=())
def int8_frames(
    states: Tensor, weight: Tensor, scale: Tensor, kernel: int, stride: int, padding: int
) -> Tensor:
    """Convolve frames [batch, frames, in], quantized to u8 with one scale.

    The weight is int8 [kernel * in, out].
    """
    padded = nn.functional.pad(states, (0, 0, padding, padding))
    product: Tensor = int8_matmul(unfold(padded, kernel, stride).contiguous(), weight, scale)
    return product


@int8_frames.register_fake
def _(
    states: Tensor, weight: Tensor, _scale: Tensor, kernel: int, stride: int, padding: int
) -> Tensor:
    return convolved_like(states, weight.shape[1], kernel, stride, padding)


class Int8Frames(FramesConvolution, OwnLayout):
    """A convolution with an int8 weight [kernel * in, out], or the same plus 128 as uint8."""

    def __init__(self, conv: nn.Conv1d, scheme: DynamicInt8, dtype: torch.dtype) -> None:
        super().__init__(conv)
        scales = conv.out_channels if scheme.per_channel else 1
        self.weight = meta_parameter(integers.unfolded_shape(conv), dtype)
        self.scale = meta_parameter((scales,), torch.float32)
        self.bias = conv.bias

    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""
        geometry = self.kernel_size[0], self.stride[0], int(self.padding[0])
        product: Tensor = int8_frames(states, self.weight, self.scale, *geometry)
        return product if self.bias is None else product + self.bias

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the codes as [kernel * in, out], in the type of the graph."""
        if leaf != "weight":
            return tensor
        return integers.stored(unfolded_weight(tensor), self.weight.dtype)


def int8_matmul_nodes(states: Any, weight: Any, scale: Any) -> Any:
    """Return the nodes that onnxruntime fuses into one `DynamicQuantizeMatMul`."""
    codes, step, zero = op.DynamicQuantizeLinear(states)
    return integers.product_nodes(codes, zero, weight, op.Mul(step, scale))


def int8_frames_nodes(
    states: Any, weight: Any, scale: Any, kernel: int, stride: int, padding: int
) -> Any:
    """Return the nodes of `int8_matmul_nodes`, with the rows unfolded from the codes.

    onnxruntime fuses those after the unfolding into one `MatMulIntegerToFloat`.
    """
    codes, step, zero = op.DynamicQuantizeLinear(states)
    rows = integers.unfolded_nodes(codes, zero, kernel, stride, padding)
    return integers.product_nodes(rows, zero, weight, op.Mul(step, scale))


def replacement(module: nn.Module, scheme: DynamicInt8, dtype: torch.dtype) -> OwnLayout:
    """Return the module in the place of a linear one or of a convolution."""
    if isinstance(module, nn.Conv1d):
        return Int8Frames(module, scheme, dtype)
    assert isinstance(module, nn.Linear)
    return Int8MatMul(module, scheme, dtype)


NODES = {int8_matmul: int8_matmul_nodes, int8_frames: int8_frames_nodes}
