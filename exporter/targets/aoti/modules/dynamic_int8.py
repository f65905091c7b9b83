"""dynamic-int8 in aoti: our kernel, or oneDNN's product."""

import torch
from torch import Tensor, nn

from exporter.quantization.convolution import convolved_like, unfold
from exporter.quantization.modules import meta_parameter
from exporter.targets.aoti.modules.base import AotiConvolution, as_type


@torch.library.custom_op("exporter::int8_linear", mutates_args=())
def int8_linear(
    states: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, gelu: bool
) -> Tensor:
    """Compute a linear module with int8 weights and dynamically quantized inputs.

    `states` float32 [..., in] are quantized to int8 with one scale per row and multiplied with
    `weight` int8 [out, in], whose rows have `scale` float32 [out]; then bias and, with `gelu`,
    GELU are applied.
    """
    codes, step = Activations().quantize(states)
    product = (codes.double() @ weight.double().t()).float() * (step * scale)
    product = product if bias is None else product + bias
    product = nn.functional.gelu(product) if gelu else product
    return product.reshape(*states.shape[:-1], -1)


@int8_linear.register_fake
def _(states: Tensor, weight: Tensor, _scale: Tensor, _bias: Tensor | None, _gelu: bool) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


@torch.library.custom_op("exporter::int8_conv", mutates_args=())
def int8_conv(
    states: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, stride: int, gelu: bool
) -> Tensor:
    """Convolve padded frames float32 [batch, frames, in], one scale per row of unfolded frames.

    `weight` is int8 [out, kernel * in]; for the others see `int8_linear`.
    """
    rows = unfold(states, weight.shape[1] // states.shape[2], stride).contiguous()
    product: Tensor = int8_linear(rows, weight, scale, bias, gelu)
    return product


@int8_conv.register_fake
def _(
    states: Tensor, weight: Tensor, _scale: Tensor, _bias: Tensor | None, stride: int, _gelu: bool
) -> Tensor:
    kernel = weight.shape[1] // states.shape[2]
    return convolved_like(states, weight.shape[0], kernel, stride)


MANY = 64


class Activations:
    """Quantizes activations to int8 with a scale per row, once for modules that share them."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def quantize(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize [..., in] to int8 [rows, in] and float32 scales [rows, 1]."""
        if self._seen is None or self._seen[0] is not states:
            rows = states.reshape(-1, states.shape[-1]).float()
            scale = (rows.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            self._seen = states, (rows / scale).round().to(torch.int8), scale
        return self._seen[1], self._seen[2]


class Int8Linear(nn.Module):
    """A linear module with weights int8 [out, in] and scales float32 [out].

    Our kernel serves any number of rows. For graphs with many rows, such as encoders, two others
    may be faster: with `activations`, oneDNN's product, which uses AMX and takes the weights as
    they are stored; and with `widen`, for CPUs without VNNI, a float product.
    """

    def __init__(
        self, linear: nn.Linear, activations: "Activations | None" = None, *, widen: bool = False
    ) -> None:
        super().__init__()
        self.weight = meta_parameter(tuple(linear.weight.shape), torch.int8)
        self.scale = meta_parameter((linear.out_features,), torch.float32)
        self.bias = linear.bias
        self._activations = activations
        self._widen = widen

    def forward(self, states: Tensor) -> Tensor:
        many = isinstance(states.shape[-2], int) and states.shape[-2] >= MANY
        bias = None if self.bias is None else as_type(self.bias, torch.float32)
        if many and self._widen:
            widened = self.weight.to(states.dtype) * self.scale.to(states.dtype)[:, None]
            wide: Tensor = nn.functional.linear(states, widened, self.bias)
            return wide
        if many and self._activations is not None:
            # One product of both scales: two would match Inductor's pattern for `qlinear` with
            # signed activations, which is a reference loop on some CPUs.
            codes, step = self._activations.quantize(states)
            product = torch._int_mm(codes, self.weight.t()).float() * (step * self.scale)
            product = (product if bias is None else product + bias).unflatten(0, states.shape[:-1])
        else:
            floats = as_type(states, torch.float32).contiguous()
            product = int8_linear(floats, self.weight, self.scale, bias, False)
        return as_type(product, states.dtype)


class Int8Frames(AotiConvolution):
    """A convolution with weights int8 [out, kernel * in] and scales float32 [out]."""

    def product(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by our kernel, which reads rows where they overlap in memory."""
        product: Tensor = int8_conv(states, self.weight, self.scale, bias, self.stride[0], False)
        return product
