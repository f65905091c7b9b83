"""The few values that are looked at: small scales, and the begin of large weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

# Enough to tell trained weights apart, and for a large model's three decoders some seconds.
HASHED_BYTES = 1 << 20


def read(path: Path, offset: int, length: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Values at a place in a file; fewer where it ends before."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


def finite(path: Path, offset: int, length: int, dtype: np.dtype[Any]) -> bool:
    """Whether there are values, and all are numbers."""
    values = read(path, offset, length, dtype)
    return bool(values.size and np.isfinite(values).all())


def digest(path: Path, offset: int, length: int) -> str:
    """The sha256 of a place's first bytes."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(min(length, HASHED_BYTES))).hexdigest()
