"""Freed memory goes back to the system where it is asked for."""

import subprocess
import sys

SCRIPT = """
import ctypes, sys
from contextlib import nullcontext
from exporter.system.hardware import (
    current_rss_bytes, large_blocks_returned, return_free_memory
)
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes, c.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
def block(size):
    place = c.malloc(size)
    ctypes.memset(place, 1, size)
    return place
c.free(block(24 << 20))  # from now on, glibc takes blocks of this size from its heap
before = current_rss_bytes()
with large_blocks_returned() if sys.argv[1] == "returned" else nullcontext():
    blocks = [block(4 << 20) for _ in range(20)]
    kept = block(1 << 10)  # so that the heap cannot shrink
    for each in blocks[:-1]:
        c.free(each)
inside = current_rss_bytes() - before
return_free_memory()
print(inside, current_rss_bytes() - before)
"""


def growth(how: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_large_blocks_are_returned_when_they_are_freed() -> None:
    whole, one = 80 << 20, 4 << 20
    kept, trimmed = growth("kept")
    assert kept > whole // 2
    assert trimmed < 3 * one
    returned, _ = growth("returned")
    assert returned < 3 * one


def test_what_the_environment_says_goes_first() -> None:
    script = "from exporter.system.hardware import *\nwith large_blocks_returned(): print(1)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"MALLOC_MMAP_THRESHOLD_": "4096"},
    )
    assert done.stdout == "1\n"
