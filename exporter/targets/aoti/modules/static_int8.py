"""static-int8 in aoti: our kernel, with one scale for all inputs."""

import torch
from torch import Tensor, nn

from exporter.quantization.convolution import convolved_like, unfold
from exporter.quantization.modules import meta_parameter
from exporter.quantization.schemes.static_int8 import LARGEST
from exporter.targets.aoti.modules.base import AotiConvolution, as_type
from exporter.targets.aoti.modules.dynamic_int8 import MANY


@torch.library.custom_op("exporter::static_int8_linear", mutates_args=())
def static_int8_linear(
    states: Tensor,
    weight: Tensor,
    scale: Tensor,
    step: Tensor,
    zero: Tensor,
    bias: Tensor | None,
    gelu: bool,
) -> Tensor:
    """Compute a linear module with int8 weights, its inputs quantized with one scale.

    `states` float32 [..., in] become u8 codes with scale `step` float32 [1] and zero point `zero`
    uint8 [1]. `weight` is int8 [out, in], whose rows have `scale`
    float32 [out]; then bias and, with `gelu`, GELU are applied.
    """
    codes = (states / step).round().add(zero).clamp(0, LARGEST) - zero
    product = (codes.double() @ weight.double().t()).float() * (step * scale)
    product = product if bias is None else product + bias
    return nn.functional.gelu(product) if gelu else product


@static_int8_linear.register_fake
def _(
    states: Tensor,
    weight: Tensor,
    _scale: Tensor,
    _step: Tensor,
    _zero: Tensor,
    _bias: Tensor | None,
    _gelu: bool,
) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


@torch.library.custom_op("exporter::static_int8_conv", mutates_args=())
def static_int8_conv(
    states: Tensor,
    weight: Tensor,
    scale: Tensor,
    step: Tensor,
    zero: Tensor,
    bias: Tensor | None,
    stride: int,
    gelu: bool,
) -> Tensor:
    """Convolve padded frames float32 [batch, frames, in] with a weight int8 [out, kernel * in]."""
    rows = unfold(states, weight.shape[1] // states.shape[2], stride).contiguous()
    product: Tensor = static_int8_linear(rows, weight, scale, step, zero, bias, gelu)
    return product


@static_int8_conv.register_fake
def _(
    states: Tensor,
    weight: Tensor,
    _scale: Tensor,
    _step: Tensor,
    _zero: Tensor,
    _bias: Tensor | None,
    stride: int,
    _gelu: bool,
) -> Tensor:
    kernel = weight.shape[1] // states.shape[2]
    return convolved_like(states, weight.shape[0], kernel, stride)


class StaticLinear(nn.Module):
    """A linear module with weights int8 [out, in] and scales float32 [out].

    With `widen`, for CPUs without VNNI, many rows take a float product of the same weights.
    """

    def __init__(self, linear: nn.Linear, *, widen: bool = False) -> None:
        super().__init__()
        self.weight = meta_parameter(tuple(linear.weight.shape), torch.int8)
        self.scale = meta_parameter((linear.out_features,), torch.float32)
        self.input_scale, self.input_zero_point = _range()
        self.bias = linear.bias
        self._widen = widen

    def forward(self, states: Tensor) -> Tensor:
        if self._widen and isinstance(states.shape[-2], int) and states.shape[-2] >= MANY:
            widened = self.weight.to(states.dtype) * self.scale.to(states.dtype)[:, None]
            wide: Tensor = nn.functional.linear(states, widened, self.bias)
            return wide
        bias = None if self.bias is None else as_type(self.bias, torch.float32)
        floats = as_type(states, torch.float32).contiguous()
        ranged = self.input_scale, self.input_zero_point
        product = static_int8_linear(floats, self.weight, self.scale, *ranged, bias, False)
        return as_type(product, states.dtype)


class StaticFrames(AotiConvolution):
    """A convolution with weights int8 [out, kernel * in] and scales float32 [out]."""

    def __init__(self, conv: nn.Conv1d, *, widen: bool = False) -> None:
        super().__init__(conv, widen=widen)
        self.input_scale, self.input_zero_point = _range()

    def product(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by our kernel, which quantizes what rows share once."""
        own = self.weight, self.scale, self.input_scale, self.input_zero_point
        product: Tensor = static_int8_conv(states, *own, bias, self.stride[0], False)
        return product


def _range() -> tuple[nn.Parameter, nn.Parameter]:
    return meta_parameter((1,), torch.float32), meta_parameter((1,), torch.uint8)
