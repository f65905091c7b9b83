"""static-int8 in ONNX: `QuantizeLinear` with constants, and onnxruntime's `MatMulIntegerToFloat`.

`QLinearMatMul` and `QLinearConv` would quantize the output too, so that every GELU and norm needed
a range of its own. The nodes of dynamic-int8 are not fused here: their scales are constants, which
onnxruntime multiplies before it looks for them.
"""

from typing import Any

import onnx_ir as ir
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
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.static_int8 import LARGEST
from exporter.quantization.schemes.static_int8 import Scheme as StaticInt8
from exporter.targets.onnx.attention import MICROSOFT, operator
from exporter.targets.onnx.modules import integers


@torch.library.custom_op("exporter::static_int8_matmul", mutates_args=())
def static_int8_matmul(
    states: Tensor,
    weight: Tensor,
    scale: Tensor,
    step: Tensor,
    zero: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Multiply states [..., in], quantized to u8, by an int8 weight [in, out], and add a bias.

    `step` float32 and `zero` uint8, both [], are the scale and the zero point of the states.
    """
    codes = (states / step).round().add(zero).clamp(0, LARGEST) - zero
    product = (codes @ integers.numbers(weight)) * (step * scale)
    return product if bias is None else product + bias


@static_int8_matmul.register_fake
def _(
    states: Tensor,
    weight: Tensor,
    _scale: Tensor,
    _step: Tensor,
    _zero: Tensor,
    _bias: Tensor | None,
) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[1]))


@torch.library.custom_op("exporter::static_int8_frames", mutates_args=())
def static_int8_frames(
    states: Tensor,
    weight: Tensor,
    scale: Tensor,
    step: Tensor,
    zero: Tensor,
    bias: Tensor | None,
    kernel: int,
    stride: int,
    padding: int,
) -> Tensor:
    """Convolve frames [batch, frames, in], quantized to u8; int8 weight [kernel * in, out]."""
    padded = nn.functional.pad(states, (0, 0, padding, padding))
    rows = unfold(padded, kernel, stride).contiguous()
    product: Tensor = static_int8_matmul(rows, weight, scale, step, zero, bias)
    return product


@static_int8_frames.register_fake
def _(
    states: Tensor,
    weight: Tensor,
    _scale: Tensor,
    _step: Tensor,
    _zero: Tensor,
    _bias: Tensor | None,
    kernel: int,
    stride: int,
    padding: int,
) -> Tensor:
    return convolved_like(states, weight.shape[1], kernel, stride, padding)


class _Static(OwnLayout):
    """The parameters of both kinds of modules."""

    def _own(self, module: nn.Linear | nn.Conv1d, rows: int, dtype: torch.dtype) -> None:
        columns = module.weight.shape[0]
        self.weight = meta_parameter((rows, columns), dtype)
        self.scale = meta_parameter((columns,), torch.float32)
        self.input_scale = meta_parameter((), torch.float32)
        self.input_zero_point = meta_parameter((), torch.uint8)
        self.bias = module.bias

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the codes as [in, out] in the type of the graph, and what is single as []."""
        if leaf == "weight":
            return integers.stored(unfolded_weight(tensor), self.weight.dtype)
        return tensor.reshape(()) if leaf.startswith("input_") else tensor

    def _multiplied(self, operator: Any, states: Tensor, *geometry: int) -> Tensor:
        own = self.weight, self.scale, self.input_scale, self.input_zero_point
        product: Tensor = operator(states, *own, self.bias, *geometry)
        return product


class StaticMatMul(_Static):
    """A linear module with an int8 weight [in, out], or the same plus 128 as uint8."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self._own(linear, linear.in_features, dtype)

    def forward(self, states: Tensor) -> Tensor:
        return self._multiplied(static_int8_matmul, states)


class StaticFrames(FramesConvolution, _Static):
    """A convolution with an int8 weight [kernel * in, out], or the same plus 128 as uint8."""

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        super().__init__(conv)
        self._own(conv, integers.unfolded_shape(conv)[0], dtype)

    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""
        geometry = self.kernel_size[0], self.stride[0], int(self.padding[0])
        return self._multiplied(static_int8_frames, states, *geometry)


def share_ranges(model: nn.Module, plan: QuantizationPlan) -> None:
    """Let siblings with equal ranges share scale and zero point.

    They have the same input, like the projections of an attention to query, key and value, and
    onnxruntime then quantizes it once.
    """
    seen: dict[tuple[str, StaticInt8], _Static] = {}
    for name, scheme in plan.modules.items():
        module = model.get_submodule(name)
        if isinstance(module, _Static) and isinstance(scheme, StaticInt8):
            parent = name.rpartition(".")[0]
            first = seen.setdefault((parent, scheme.model_copy(update={"bits": 8})), module)
            module.input_scale, module.input_zero_point = first.input_scale, first.input_zero_point


def replacement(module: nn.Module, _scheme: StaticInt8, dtype: torch.dtype) -> OwnLayout:
    """Return the module in the place of a linear one or of a convolution."""
    if isinstance(module, nn.Conv1d):
        return StaticFrames(module, dtype)
    assert isinstance(module, nn.Linear)
    return StaticMatMul(module, dtype)


def _matmul_nodes(
    states: Any, weight: Any, scale: Any, step: Any, zero: Any, bias: Any = None
) -> Any:
    codes = op.QuantizeLinear(states, step, zero)
    return _product(codes, weight, scale, step, zero, bias)


def _product(codes: Any, weight: Any, scale: Any, step: Any, zero: Any, bias: Any) -> Any:
    own_zero = integers.weight_zero(weight)
    if own_zero is None:
        own_zero = op.Cast(op.Constant(value_int=0), to=int(ir.DataType.INT8))
    given = [codes, weight, step, scale, zero, own_zero]
    given += [] if bias is None else [bias]
    return operator(MICROSOFT, "MatMulIntegerToFloat", len(given), 1)(*given)


def _frames_nodes(
    states: Any,
    weight: Any,
    scale: Any,
    step: Any,
    zero: Any,
    bias: Any,
    kernel: int,
    stride: int,
    padding: int,
) -> Any:
    codes = op.QuantizeLinear(states, step, zero)
    rows = integers.unfolded_nodes(codes, zero, kernel, stride, padding)
    return _product(rows, weight, scale, step, zero, bias)


NODES = {static_int8_matmul: _matmul_nodes, static_int8_frames: _frames_nodes}
