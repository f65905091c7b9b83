"""Convolutions over time as products of unfolded frames with a constant weight.

A `Conv1d` without groups or dilation multiplies, for each of its outputs, `kernel` consecutive
frames, side by side in one row, with its weight. Such rows take the products of linear modules.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def is_unfoldable(module: nn.Module) -> bool:
    """Return whether a module is a convolution of several channels that is such a product.

    With one channel, as at the start of a waveform's front end, a row is a few samples: a product
    in integers saves nothing there.
    """
    return (
        isinstance(module, nn.Conv1d)
        and (module.groups, module.dilation) == (1, (1,))
        and (module.padding_mode, isinstance(module.padding, str)) == ("zeros", False)
        and module.in_channels > 1
    )


def is_product(module: nn.Module) -> bool:
    """Return whether a module is linear, or such a convolution."""
    return isinstance(module, nn.Linear) or is_unfoldable(module)


def unfolded_weight(weight: Tensor) -> Tensor:
    """Return a convolution's weight [out, in, kernel] as [out, kernel * in]; others unchanged."""
    return weight.transpose(1, 2).flatten(1) if weight.ndim == 3 else weight


def unfold(states: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the rows [batch, outputs, kernel * channels] of frames [batch, frames, channels].

    They are a view: consecutive rows overlap in memory where the frames are contiguous.
    """
    rows: Tensor = states.unfold(1, kernel, stride).transpose(2, 3)
    return rows.flatten(2)


def convolved_like(
    states: Tensor, channels: int, kernel: int, stride: int, padding: int = 0
) -> Tensor:
    """Return an empty tensor in the shape of convolved frames [batch, frames, in]."""
    outputs = (states.shape[1] + 2 * padding - kernel) // stride + 1
    return states.new_empty((states.shape[0], outputs, channels))


class FramesConvolution(nn.Module, ABC):
    """A module in the place of a `Conv1d`, which computes with the channels last.

    It has the attributes of the original that tell its geometry.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding

    @abstractmethod
    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""

    def forward(self, states: Tensor) -> Tensor:
        """Convolve [batch, in, frames] to [batch, out, outputs], as the original does."""
        return self.frames(states.transpose(1, 2)).transpose(1, 2)

    def padded(self, states: Tensor) -> Tensor:
        """Return frames [batch, frames, in] with the zeros at both ends."""
        (many,) = self.padding
        return nn.functional.pad(states, (0, 0, many, many)) if many else states

    def rows(self, states: Tensor) -> Tensor:
        """Return the rows [batch, outputs, kernel * in] of frames [batch, frames, in]."""
        return unfold(self.padded(states), self.kernel_size[0], self.stride[0])


def per_row(scale: Tensor, weight: Tensor) -> Tensor:
    """Return the scales [out] or [1] in the shape that multiplies a weight's rows."""
    return scale.reshape(-1, *[1] * (weight.ndim - 1)).to(torch.float32)
