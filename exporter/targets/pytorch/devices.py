"""The device-specific parts of running an int8 state_dict."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exporter.system.accelerators import Device
from exporter.system.hardware import describe


class Int8Linear(nn.Module):
    """A linear module with int8 weights, whose inputs are quantized to u8 at every call.

    `quantized.linear_dynamic` is the fastest int8 product of torch on x86: one call, with the
    weights packed for the CPU's instructions. If u8 x s8 products saturate (no VNNI), activations
    are limited to 7 bits.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._reduce_range = not describe().vnni
        with warnings.catch_warnings():  # torch warns that quantized tensors are deprecated
            warnings.simplefilter("ignore", UserWarning)
            numbers = torch._make_per_channel_quantized_tensor(
                weight,
                scale.double().expand(self.out_features),
                torch.zeros(self.out_features, dtype=torch.int64),
                0,
            )
        self._packed = torch.ops.quantized.linear_prepack(numbers, bias)

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic(
            states, self._packed, self._reduce_range
        )
        return product


@dataclass(frozen=True)
class Support:
    """Support for one kind of device: the torch device, and its int8 linear module."""

    torch_device: torch.device
    int8_linear: type[Int8Linear]


SUPPORT: dict[Device, Support] = {"cpu": Support(torch.device("cpu"), Int8Linear)}
