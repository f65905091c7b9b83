"""Map a safetensors file into memory, checked, without the library of that name."""

import json
import mmap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import IntegrityError
from exporter.runtime.aoti.spec import BITS

Array = NDArray[Any]

_MAX_HEADER_BYTES = 16 << 20
_POPULATE_READ = 22  # MADV_POPULATE_READ, which `mmap` does not name
# Types by the format's names; numpy has no bfloat16, whose bits are kept as uint16.
_TYPES = {
    **{"U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "BOOL": "bool"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}


class Weights:
    """A file's tensors, read where they are used.

    The file must not change while it is mapped.

    Raises:
        IntegrityError: The file is damaged: a header that is none, or a tensor outside the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = _mapped(path)
            size = len(self._bytes)
            length = int.from_bytes(self._bytes[:8].tobytes(), "little")
            if size < 8 or not 0 < length <= min(_MAX_HEADER_BYTES, size - 8):
                msg = f"a header of {length} bytes in a file of {size}"
                raise ValueError(msg)
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
            header.pop("__metadata__", None)
            self._places = {name: _place(told, 8 + length, size) for name, told in header.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
            msg = f"{path} is damaged ({e}): build or fetch the artifact again"
            raise IntegrityError(msg) from e

    def get(self, name: str) -> tuple[str, Array] | None:
        """Return a tensor's type, by torch's name, and its values; None if there is none."""
        if name not in self._places:
            return None
        dtype, shape, begin, end = self._places[name]
        values = self._bytes[begin:end].view(numpy_type(dtype)).reshape(shape)
        return dtype, values


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Map a file, every page of it at once: all are read, and single faults take longer."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with suppress(OSError):  # before Linux 5.14, pages are mapped as they are read
        pages.madvise(_POPULATE_READ)
    return np.frombuffer(pages, np.uint8)


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return numpy's type for one of torch's names; bfloat16's bits are uint16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def _place(told: Mapping[str, Any], start: int, size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Return a tensor's type, shape, and the offsets of its begin and end in the file."""
    dtype, shape = _TYPES[told["dtype"]], tuple(told["shape"])
    begin, end = (start + int(offset) for offset in told["data_offsets"])
    count = 1
    for length in shape:
        if type(length) is not int or length < 0:
            msg = f"the shape {list(shape)}"
            raise ValueError(msg)
        count *= length
    item = BITS[dtype] // 8
    # The format aligns tensors, and compiled code reads them as they lie.
    if not start <= begin <= end <= size or end - begin != count * item or begin % item:
        msg = f"a tensor of {count * item} bytes from {begin} to {end} in a file of {size}"
        raise ValueError(msg)
    return dtype, shape, begin, end
