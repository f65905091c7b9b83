"""The execution providers of onnxruntime, and the conversion of tensors for each.

This module holds all code that is specific to a kind of device.
"""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.system.accelerators import Device

Array = NDArray[Any]


@dataclass(frozen=True)
class Provider:
    """Support for onnxruntime on one kind of device.

    Attributes:
        names: Execution providers, the preferred one first.
        memory: onnxruntime's name and index of the device in whose memory tensors are bound.
        torch_device: The same device for torch.
    """

    names: tuple[str, ...]
    memory: tuple[str, int]
    torch_device: torch.device

    def to_array(self, tensor: Tensor) -> Array:
        """Return a tensor as onnxruntime takes it, in the same memory, which numpy can address."""
        return tensor.numpy()

    def from_array(self, array: Array) -> Tensor:
        """Return an output as a tensor in the same memory."""
        return torch.from_numpy(array)

    def from_value(self, value: Any) -> Tensor:
        """Return a bound output, an `OrtValue`, as a tensor in the same memory."""
        return self.from_array(value.numpy())


PROVIDERS: dict[Device, Provider] = {
    "cpu": Provider(("CPUExecutionProvider",), ("cpu", 0), torch.device("cpu"))
}
