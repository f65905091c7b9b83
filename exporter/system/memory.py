"""What the C library keeps of freed memory, and how it is made to return it.

glibc alone has these functions; with another C library nothing is done.
"""

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

_MAPPED_BYTES = 1 << 20
# glibc raises its threshold for blocks in mappings of their own, and then keeps freed memory: up to
# twice the peak of a program that goes through large tensors.
FRUGAL: Mapping[str, str] = MappingProxyType({"MALLOC_MMAP_THRESHOLD_": str(_MAPPED_BYTES)})
"""The environment of a process whose large blocks return to the system when they are freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_USUAL_BYTES = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX in glibc, which a threshold rises to


def return_free_memory() -> None:
    """Give memory that was freed, and that the C library keeps, back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Give large blocks that are freed inside the block back to the system at once.

    Afterwards the C library keeps blocks for reuse, as in any program that has freed one of 32 MB.
    What the environment says of it goes first.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is None or any(name in os.environ for name in FRUGAL):
        yield
        return
    option(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    try:
        yield
    finally:
        option(_M_MMAP_THRESHOLD, _USUAL_BYTES)
        option(_M_TRIM_THRESHOLD, 2 * _USUAL_BYTES)
        return_free_memory()
