"""Arrays that stay in the memory of a device, where onnxruntime reads and writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Buffer:
    """A contiguous array in a device's memory, or some of the entries of one's first axis.

    Attributes:
        value: The `OrtValue` that owns the memory.
        shape: The array's shape.
        dtype: Its type.
        address: Where it begins.
    """

    value: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int

    def entry(self, index: int) -> Buffer:
        """Return one entry of the first axis, in the same memory."""
        rest = self.shape[1:]
        return Buffer(self.value, rest, self.dtype, self.address + index * self._bytes(rest))

    def entries(self, first: int, last: int) -> Buffer:
        """Return the entries of the first axis from `first` to before `last`, in this memory."""
        rest = self.shape[1:]
        start = self.address + first * self._bytes(rest)
        return Buffer(self.value, (last - first, *rest), self.dtype, start)

    def _bytes(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.dtype.itemsize


class Memory:
    """The memory of one device.

    Attributes:
        device: Its name in onnxruntime, "cuda"; or "cpu", where the same graphs are tested.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Buffer:
        """Return an array of any content."""
        import onnxruntime

        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([*shape], dtype, self.device, 0)
        return Buffer(value, tuple(shape), dtype, value.data_ptr())

    def zeros(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Buffer:
        """Return an array of zeros."""
        buffer = self.empty(shape, dtype)
        self.write(buffer, np.zeros(shape, dtype))
        return buffer

    def write(self, buffer: Buffer, array: Array) -> None:
        """Copy a contiguous array of the host into a whole array of the device."""
        buffer.value.update_inplace(np.ascontiguousarray(array, buffer.dtype))

    def read(self, buffer: Buffer) -> Array:
        """Return a copy, on the host, of a whole array of the device."""
        copied: Array = buffer.value.numpy()
        return copied if self.device != "cpu" else copied.copy()

    def bind(self, function: Any, name: str, buffer: Buffer) -> None:
        """Bind an array by `bind_input` or `bind_output` of onnxruntime."""
        function(name, self.device, 0, buffer.dtype, buffer.shape, buffer.address)
