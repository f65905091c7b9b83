"""Measure memory bandwidth and matrix products, which bound speech models.

A decoder's token reads every weight once, so memory decides; an encoder's window is matrix
products. Measured with torch in a process of its own, in a few seconds.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from exporter.system import hardware, worker
from exporter.system.progress import Progress

# Far beyond any cache, and at most a quarter of the memory that is free.
_BUFFER_BYTES = 1 << 30
_MEMORY_BUDGET_S = 1.0
_BUDGET_S = 0.15
# A window's positions, by the widths of Whisper small and large.
_ROWS = 1500
_WIDTHS = (768, 1280)


def measure_fresh(threads: int | None, progress: Progress) -> dict[str, Any]:
    """Measure with N threads (default: all cores); also raises what `child.run` raises.

    Raises MachineError where there are fewer cores.
    """
    hardware.require_cores(threads or 1)
    asked = {"threads": threads or hardware.describe().cores}
    step = f"{__name__}:measure"
    told = worker.run(step, asked, progress, what="machine", threads=asked["threads"])
    return {name: told[name] for name in ("threads", "memory", "products")}


def measure(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run both measurements here, in a process that does nothing else."""
    import torch

    torch.set_num_threads(asked["threads"])
    progress("reading memory", None)
    memory = memory_read()
    progress("multiplying matrices", None)
    return {
        "threads": asked["threads"],
        "memory": memory,
        "products": [products(width) for width in _WIDTHS],
    }


def memory_read() -> dict[str, Any]:
    """Bytes a second that all threads together read from memory.

    `torch.sum` over 1 GiB of float32, far beyond the caches and in one contiguous stretch for each
    thread: the additions are vectorised and hide behind the reading, nothing is written. The best
    of several passes, as in STREAM, since whatever disturbs can only slow it down. In a virtual
    machine, what its neighbours do can halve the figure for minutes.
    """
    import torch

    size = min(_BUFFER_BYTES, hardware.memory_available_bytes() // 4)
    # Written, so that every page is there; numpy asks for huge ones.
    buffer = torch.from_numpy(np.ones(size // 4, np.float32))
    return {
        "read_bytes_per_s": buffer.nbytes / _best_s(buffer.sum, _MEMORY_BUDGET_S),
        "buffer_bytes": buffer.nbytes,
    }


def products(width: int) -> dict[str, Any]:
    """Operations a second of a linear module, [1500, width] by [width, width].

    int8 is `torch._int_mm`, which the compiled graphs call; a multiplication and an addition are
    two operations. The best of several calls, weights warm in the caches.
    """
    import torch

    operations = 2 * _ROWS * width * width
    found: dict[str, Any] = {"rows": _ROWS, "width": width}
    codes = torch.randint(-127, 128, (_ROWS, width), dtype=torch.int8)
    weight = torch.randint(-127, 128, (width, width), dtype=torch.int8)
    found["int8"] = operations / _best_s(partial(torch._int_mm, codes, weight.t()), _BUDGET_S)
    for dtype in (torch.bfloat16, torch.float32):
        linear = partial(torch.nn.functional.linear, codes.to(dtype), weight.to(dtype))
        found[str(dtype).removeprefix("torch.")] = operations / _best_s(linear, _BUDGET_S)
    return found


def _best_s(call: Callable[[], object], budget_s: float) -> float:
    """The fastest of the calls that fit into the budget, at least one after a first to warm up."""
    call()
    best, until = float("inf"), time.perf_counter() + budget_s
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
