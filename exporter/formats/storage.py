"""Where tensors lie in weight files, and reading them a few rows at a time.

The library checks a file's header; the bytes are then read from their place, so that neither a
mapping nor a whole tensor stays in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exporter.errors import CheckpointError
from exporter.formats.safetensors_header import read_header

# safetensors' names of the types that a checkpoint's weights may have.
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in FLOATS.items()}
BLOCK_ELEMENTS = 1 << 19  # a block and its float32 copy stay in a core's cache


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor's values lie, contiguous, and what they are."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """The number of values."""
        return torch.Size(self.shape).numel()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the values come from."""
        return (self.file,)

    def read(self) -> Tensor:
        """Read all values."""
        flat = torch.empty(self.elements, dtype=FLOATS[self.dtype])
        self._fill(flat, 0)
        return flat.reshape(self.shape)

    def blocks(self) -> Iterator[Tensor]:
        """Read the rows in order, some at a time: tensors [rows, ...] that join to `read()`.

        They share their memory: one holds its values until the next is asked for.
        """
        rows, width = self.shape[0], self.elements // max(self.shape[0], 1)
        step = min(max(BLOCK_ELEMENTS // max(width, 1), 1), rows)
        buffer = torch.empty(step * width, dtype=FLOATS[self.dtype])
        for start in range(0, rows, step):
            count = min(step, rows - start)
            flat = buffer[: count * width]
            self._fill(flat, start * width)
            yield flat.reshape(count, *self.shape[1:])

    def _fill(self, flat: Tensor, first: int) -> None:
        """Read as many values as `flat` holds, from the value `first` on."""
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.offset + first * flat.itemsize)
            wanted = flat.view(torch.uint8).numpy().data
            got = 0
            while got < len(wanted) and (count := file.readinto(wanted[got:])):
                got += count
        if got < len(wanted):
            msg = f"{self.file}: truncated while it was read: fetch it again"
            raise CheckpointError(msg)


def safetensors_infos(path: Path) -> dict[str, TensorInfo]:
    """Read a safetensors file's header, checked by the library; raise CheckpointError."""
    return {
        name: TensorInfo(path, entry.begin, entry.shape, entry.dtype)
        for name, entry in read_header(path).items()
    }
