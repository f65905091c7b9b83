"""The few tensor values that checks read: small scales, and the first bytes of large weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

# Enough to distinguish trained weights; a large model's three decoders take seconds.
HASHED_BYTES = 1 << 20


def read(path: Path, offset: int, length: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Read values from a file.

    Args:
        path: The file.
        offset: Position of the first byte.
        length: Bytes to read.
        dtype: Type of the values.

    Returns:
        The values, of shape [n]; fewer where the file ends early.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


def finite(path: Path, offset: int, length: int, dtype: np.dtype[Any]) -> bool:
    """Return True if there are values and all are finite."""
    values = read(path, offset, length, dtype)
    return bool(values.size and np.isfinite(values).all())


def digest(path: Path, offset: int, length: int) -> str:
    """Return the sha256 of up to `HASHED_BYTES` bytes from `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(min(length, HASHED_BYTES))).hexdigest()
