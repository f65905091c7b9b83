"""What the integer schemes share in ONNX: how codes are stored, unfolded and multiplied."""

import sys
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

UNSIGNED_ZERO = 128


def stored(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return int8 codes [out, in] as [in, out], in the type of the graph."""
    if dtype == torch.uint8:
        codes = (codes.short() + UNSIGNED_ZERO).to(torch.uint8)
    return codes.t()


def numbers(weight: Tensor) -> Tensor:
    """Return stored codes as float32 numbers around 0."""
    return weight.float() - (UNSIGNED_ZERO if weight.dtype == torch.uint8 else 0)


def unfolded_shape(conv: nn.Conv1d) -> tuple[int, int]:
    """Return the shape [kernel * in, out] in which a graph stores a convolution's weight."""
    return conv.kernel_size[0] * conv.in_channels, conv.out_channels


def product_nodes(codes: Any, zero: Any, weight: Any, scale: Any) -> Any:
    """Return the nodes of a product of codes and a weight [in, out], times their scales.

    onnxruntime fuses them into `MatMulIntegerToFloat`, together with the addition of a bias.
    """
    operands = [codes, weight, zero]
    if (own := weight_zero(weight)) is not None:
        operands.append(own)
    product = op.Cast(op.MatMulInteger(*operands), to=int(ir.DataType.FLOAT))
    return op.Mul(product, scale)


def weight_zero(weight: Any) -> Any:
    """Return the zero point of a weight that is stored as uint8; None for int8."""
    if weight.dtype != ir.DataType.UINT8:
        return None
    return op.Cast(op.Constant(value_int=UNSIGNED_ZERO), to=int(ir.DataType.UINT8))


def unfolded_nodes(codes: Any, zero: Any, kernel: int, stride: int, padding: int) -> Any:
    """Return the nodes that lay codes [batch, frames, in] out as rows of `kernel` frames.

    Frames of padding hold the zero point. Slices end as far before the last frame as leaves all of
    them equally long, so that no length has to be computed.
    """
    if padding:
        codes = op.Pad(codes, _ints([padding, padding]), zero, _ints([1]))
    parts = [
        op.Slice(
            codes,
            _ints([first]),
            _ints([first + 1 - kernel or sys.maxsize]),
            _ints([1]),
            _ints([stride]),
        )
        for first in range(kernel)
    ]
    return op.Concat(*parts, axis=2) if kernel > 1 else parts[0]


def _ints(values: Sequence[int]) -> Any:
    return op.Constant(value_ints=list(values))
