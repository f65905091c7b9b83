"""How every system is timed: the same windows, warm-up and clock."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

RATE, WINDOW_S = 16000, 30
RUNS = 5


def window(seed: int = 0) -> NDArray[np.float32]:
    """Return a window of noise: what a scripted model says does not depend on it."""
    drawing = np.random.default_rng(seed)
    return drawing.normal(scale=0.1, size=RATE * WINDOW_S).astype(np.float32)


def synchronize(device: str) -> None:
    """Wait until the card has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call, with all its work on the card."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def median(call: Callable[[], Any], device: str, runs: int = RUNS) -> float:
    """Return the median of the seconds of some calls."""
    return statistics.median(seconds(call, device) for _ in range(runs))


def memory_used(device: str) -> int:
    """Return the bytes of the card's memory that are taken, by all that use it."""
    if device != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def say(row: dict[str, Any]) -> None:
    """Print one row of figures, at once: the process may be ended before the next."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()
