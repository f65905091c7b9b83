"""Read and write weights tensor by tensor, each byte once and in its final place.

The safetensors library writes from a dictionary that holds every tensor; an artifact of a large
model must not need that memory. The format is eight bytes of length, a JSON header, and the data.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporter.errors import CheckpointError
from exporter.formats.safetensors_header import read_header
from exporter.system.progress import Progress, shown_bytes

# safetensors' names of the types that a checkpoint's weights may have.
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in FLOATS.items()}
_NAMES = {**NAMES, torch.int8: "I8", torch.uint8: "U8"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Tensors by name: type and shape."""

# The size of a cache line and of the largest vector register.
ALIGNMENT = 64
_SYNC_BYTES = 64 << 20


def converted(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return a tensor in another type; raise CheckpointError where float16 cannot hold it."""
    narrow = tensor.to(dtype)
    # In pieces, because the test makes copies.
    if dtype == torch.float16 != tensor.dtype and not all(
        rows.isfinite().all() for rows in narrow.split(256)
    ):
        msg = f"{name} has values beyond the range of float16: choose bfloat16 or float32"
        raise CheckpointError(msg)
    return narrow


@dataclass(frozen=True)
class Place:
    """The offset, type and shape of a tensor in a file."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's values."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_safetensors(
    path: Path,
    layout: Layout,
    read: Callable[[str], Tensor],
    progress: Progress,
) -> None:
    """Write a safetensors file, one tensor in memory at a time.

    Every tensor begins at a multiple of its type's size, and of 64 bytes where sizes allow: tensors
    that fill whole lines come first, then wide types before narrow ones.

    Args:
        path: The file.
        layout: Type and shape by name.
        read: Returns the tensor of a name.
        progress: Receives the fraction of bytes written.
    """
    text, places = _laid_out(layout)
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
    moved = {n: Place(start + p.offset, p.dtype, p.shape) for n, p in places.items()}
    write_tensors(path, moved, read, progress)


def safetensors_bytes(layout: Layout) -> int:
    """Return the size in bytes of the file that `write_safetensors` would write."""
    text, places = _laid_out(layout)
    return 8 + len(text) + sum(place.size_bytes for place in places.values())


def _laid_out(
    layout: Layout,
) -> tuple[bytes, dict[str, Place]]:
    """Return the header, and each tensor's place after it."""
    places: dict[str, Place] = {}
    offset = 0
    for name in sorted(layout, key=lambda name: _order(*layout[name], name)):
        places[name] = Place(offset, *layout[name])
        offset += places[name].size_bytes
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, place in places.items():
        ends = [place.offset, place.offset + place.size_bytes]
        header[name] = {"dtype": _NAMES[place.dtype], "shape": place.shape, "data_offsets": ends}
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-(8 + len(text)) % ALIGNMENT), places


def write_tensors(
    path: Path, places: Mapping[str, Place], read: Callable[[str], Tensor], progress: Progress
) -> None:
    """Write each tensor to its place in a file, which is created if it is missing.

    Narrow types are read first, because quantizing to int8 computes the scales too.

    Args:
        path: The file.
        places: Offset, type and shape by name.
        read: Returns the tensor of a name.
        progress: Receives the fraction of bytes written.
    """
    total = sum(place.size_bytes for place in places.values())
    done = 0
    names = sorted(places, key=lambda name: (places[name].dtype.itemsize, places[name].offset))
    with path.open("r+b" if path.exists() else "wb") as file, _synced(file.fileno()) as sync:
        for count, name in enumerate(names, start=1):
            place, tensor = places[name], read(name)
            if (tensor.dtype, tuple(tensor.shape)) != (place.dtype, place.shape):
                msg = f"{name} was read as {tensor.dtype} {list(tensor.shape)}, not as laid out"
                raise AssertionError(msg)
            file.seek(place.offset)
            done += file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            sync(done)
            sizes = f"{shown_bytes(done)} of {shown_bytes(total)}"
            progress(f"writing {path.name}: {sizes}, tensor {count} of {len(names)}", done / total)


def _order(dtype: torch.dtype, shape: tuple[int, ...], name: str) -> tuple[bool, int, str]:
    ragged = dtype.itemsize * torch.Size(shape).numel() % ALIGNMENT != 0
    return ragged, -dtype.itemsize, name


@contextmanager
def _synced(descriptor: int) -> Iterator[Callable[[int], None]]:
    """Sync written bytes to disk while the next tensors are computed, and all at the end."""
    with ThreadPoolExecutor(1) as pool:
        last: Future[None] | None = None
        begun = 0

        def sync(written: int) -> None:
            nonlocal last, begun
            if written - begun >= _SYNC_BYTES and (last is None or last.done()):
                if last is not None:
                    last.result()  # the kernel reports a failed write once, at fdatasync
                begun = written
                last = pool.submit(os.fdatasync, descriptor)

        yield sync
        if last is not None:
            last.result()


BLOCK_ELEMENTS = 1 << 19  # a block and its float32 copy stay in a core's cache


@dataclass(frozen=True)
class TensorInfo:
    """The place of a tensor's contiguous values in a file, their type and shape."""

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
        flat = torch.empty(self.elements, dtype=_TYPES[self.dtype])
        self._fill(flat, 0)
        return flat.reshape(self.shape)

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows in order, some at a time, as tensors of shape [rows, ...].

        All share one buffer: a block is valid until the next one is requested.
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
        """Fill `flat` with the values from index `first` on."""
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
    """Return the places of a safetensors file's tensors; raise CheckpointError if damaged."""
    return {
        name: TensorInfo(path, entry.begin, entry.shape, entry.dtype)
        for name, entry in read_header(path).items()
    }


def mapped(info: TensorInfo) -> Tensor:
    """Map a tensor into memory, of which only the pages that are used are read.

    The file must not change while it is mapped.
    """
    if not info.elements:
        return info.read()
    dtype = _TYPES[info.dtype]
    size = info.elements * dtype.itemsize
    # Copied on write, because torch knows no tensors that cannot be written.
    values = np.memmap(info.file, np.uint8, "c", info.offset, (size,))
    return torch.from_numpy(values).view(dtype).reshape(info.shape)
