"""dynamic-int8 in ONNX: `DynamicQuantizeLinear` and `MatMulInteger`."""

from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from exporter.quantization.modules import meta_parameter
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.targets.onnx.modules.base import OnnxModule

UNSIGNED_ZERO = 128


@torch.library.custom_op("exporter::int8_matmul", mutates_args=())
def int8_matmul(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply states [..., in], quantized to u8 with one scale, by an int8 weight [in, out]."""
    low, high = states.amin().clamp_max(0.0), states.amax().clamp_min(0.0)
    step = (high - low) / 255
    zero = (-low / step).round().clamp(0, 255)
    codes = (states / step).round().add(zero).clamp(0, 255) - zero
    numbers = weight.float() - (UNSIGNED_ZERO if weight.dtype == torch.uint8 else 0)
    return (codes @ numbers) * (step * scale)


@int8_matmul.register_fake
def _(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[1]))


class Int8MatMul(OnnxModule):
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
        if leaf != "weight":
            return tensor
        if self.weight.dtype == torch.uint8:
            tensor = (tensor.short() + UNSIGNED_ZERO).to(torch.uint8)
        return tensor.t()


def int8_matmul_nodes(states: Any, weight: Any, scale: Any) -> Any:
    """Return the nodes that onnxruntime fuses into one `DynamicQuantizeMatMul`."""
    codes, step, zero = op.DynamicQuantizeLinear(states)
    operands = [codes, weight, zero]
    if weight.dtype == ir.DataType.UINT8:
        operands.append(op.Cast(op.Constant(value_int=UNSIGNED_ZERO), to=int(ir.DataType.UINT8)))
    product = op.Cast(op.MatMulInteger(*operands), to=int(ir.DataType.FLOAT))
    return op.Mul(product, op.Mul(step, scale))


replacement = Int8MatMul
NODES = {int8_matmul: int8_matmul_nodes}
