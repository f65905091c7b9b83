"""Linear modules for ONNX: int8 with dynamic activations, or float."""

from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from exporter.quantization.modules import meta_parameter, replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.float import Scheme as Float

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


class Int8MatMul(nn.Module):
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


class FloatMatMul(nn.Module):
    """A linear module in float, with its weight [in, out] in ONNX's layout."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = meta_parameter((linear.in_features, linear.out_features), dtype)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product = states @ self.weight.float()
        return product if self.bias is None else product + self.bias


class TiedMatMul(nn.Module):
    """A float head whose weight is the embedding table, stored once."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self._table = (table,)  # in a tuple, so that it is not a submodule here

    def forward(self, states: Tensor) -> Tensor:
        table: Any = self._table[0].weight
        product: Tensor = states @ table.float().t()
        return product


def swap_linears(model: nn.Module, plan: QuantizationPlan, int8: torch.dtype) -> set[str]:
    """Replace linear modules for ONNX; return the names of the weights stored as [in, out].

    The codes of integer schemes are `int8`, or uint8 with 128 added; float weights are float32
    unless their scheme says otherwise.
    """
    transposed = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            replace_module(model, name, _swapped(module, plan.modules.get(name, Float()), int8))
            transposed.add(f"{name}.weight")
    return transposed


def _swapped(linear: nn.Linear, scheme: QuantizationScheme, int8: torch.dtype) -> nn.Module:
    if isinstance(scheme, DynamicInt8):
        return Int8MatMul(linear, scheme, int8)
    assert isinstance(scheme, Float), scheme
    return FloatMatMul(linear, scheme.storage(torch.float32))


def int8_matmul_nodes(states: Any, weight: Any, scale: Any) -> Any:
    """Return the nodes that onnxruntime fuses into one `DynamicQuantizeMatMul`."""
    codes, step, zero = op.DynamicQuantizeLinear(states)
    operands = [codes, weight, zero]
    if weight.dtype == ir.DataType.UINT8:
        operands.append(op.Cast(op.Constant(value_int=UNSIGNED_ZERO), to=int(ir.DataType.UINT8)))
    product = op.Cast(op.MatMulInteger(*operands), to=int(ir.DataType.FLOAT))
    return op.Mul(product, op.Mul(step, scale))
