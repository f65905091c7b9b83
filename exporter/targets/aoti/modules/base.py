"""What the modules of several schemes share in aoti."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from exporter.quantization.convolution import FramesConvolution, unfolded_weight
from exporter.quantization.modules import OwnLayout, meta_parameter


class AotiConvolution(FramesConvolution, OwnLayout):
    """A convolution with weights int8 [out, kernel * in] and scales float32 [out].

    With `widen`, for CPUs without VNNI, it is a float product of the same weights.
    """

    def __init__(self, conv: nn.Conv1d, *, widen: bool = False) -> None:
        super().__init__(conv)
        shape = (conv.out_channels, conv.kernel_size[0] * conv.in_channels)
        self.weight = meta_parameter(shape, torch.int8)
        self.scale = meta_parameter((conv.out_channels,), torch.float32)
        self.bias = conv.bias
        self._widen = widen

    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""
        if self._widen:
            return self._widened(states)
        bias = None if self.bias is None else as_type(self.bias, torch.float32)
        padded = as_type(self.padded(states), torch.float32).contiguous()
        return as_type(self.product(padded, bias), states.dtype)

    @abstractmethod
    def product(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply the rows of padded frames float32 [batch, frames, in] with the weights."""

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the scheme as the module holds it."""
        return unfolded_weight(tensor) if leaf == "weight" else tensor

    def _widened(self, states: Tensor) -> Tensor:
        weight = self.weight.to(states.dtype) * self.scale.to(states.dtype)[:, None]
        kernel = weight.unflatten(1, (self.kernel_size[0], self.in_channels)).transpose(1, 2)
        convolved: Tensor = nn.functional.conv1d(
            states.transpose(1, 2), kernel, self.bias, self.stride, self.padding
        )
        return convolved.transpose(1, 2)


def as_type(states: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to `dtype`, without a node if it is the same: `fuse_gelu` would not match it."""
    return states if states.dtype == dtype else states.to(dtype)
