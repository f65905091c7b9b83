"""Measure memory bandwidth and matrix products, which bound speech models.

A decoder reads every weight once per token, so memory bandwidth bounds it; an encoder consists of
matrix products. Both are measured with torch in a process of its own, in a few seconds. Cards are
measured by `exporter.bench.card`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from exporter.bench import card
from exporter.system import hardware, worker
from exporter.system.progress import Progress

# Far larger than any cache; at most a quarter of the free memory is used.
_BUFFER_BYTES = 1 << 30
_MEMORY_BUDGET_S = 1.0
_BUDGET_S = 0.15
# The positions of a window, and the widths of Whisper small and large.
_ROWS = 1500
_WIDTHS = (768, 1280)


def measure_fresh(threads: int | None, progress: Progress) -> dict[str, Any]:
    """Measure memory and matrix products in a fresh process.

    Args:
        threads: Number of threads; all cores if None.
        progress: Receives the current step.

    Returns:
        `threads`, `memory`, `products` and `cards`, as plain data.

    Raises:
        MachineError: There are fewer cores than threads.
        ExporterError: The errors of `worker.run`.
    """
    hardware.require_cores(threads or 1)
    request = {"threads": threads or hardware.describe().cores}
    step = f"{__name__}:measure"
    measured = worker.run(step, request, progress, what="machine", threads=request["threads"])
    return {name: measured[name] for name in ("threads", "memory", "products", "cards")}


def measure(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run all measurements in this process."""
    import torch

    torch.set_num_threads(request["threads"])
    progress("reading memory", None)
    memory = memory_read()
    progress("multiplying matrices", None)
    rates = [products(width) for width in _WIDTHS]
    progress("measuring cards", None)
    return {
        "threads": request["threads"],
        "memory": memory,
        "products": rates,
        "cards": card.measure_cards(),
    }


def memory_read() -> dict[str, Any]:
    """Measure the bytes per second that all threads together read from memory.

    `torch.sum` over 1 GiB of float32, far larger than the caches and with one contiguous part for
    each thread: nothing is written, and the vectorised additions are faster than the reads. The
    best of several passes counts, as in STREAM, since disturbances can only slow it down. In a
    virtual machine, others on the same host can halve the figure for minutes.
    """
    import torch

    size = min(_BUFFER_BYTES, hardware.memory_available_bytes() // 4)
    # Filled, so that every page is allocated; numpy requests huge pages.
    buffer = torch.from_numpy(np.ones(size // 4, np.float32))
    return {
        "read_bytes_per_s": buffer.nbytes / _best_s(buffer.sum, _MEMORY_BUDGET_S),
        "buffer_bytes": buffer.nbytes,
    }


def products(width: int) -> dict[str, Any]:
    """Measure the operations per second of a linear module, [1500, width] by [width, width].

    int8 is `torch._int_mm`, which the compiled graphs call. A multiplication and an addition are
    two operations. The best of several calls counts, with the weights in the caches.
    """
    import torch

    operations = 2 * _ROWS * width * width
    rates: dict[str, Any] = {"rows": _ROWS, "width": width}
    codes = torch.randint(-127, 128, (_ROWS, width), dtype=torch.int8)
    weight = torch.randint(-127, 128, (width, width), dtype=torch.int8)
    rates["int8"] = operations / _best_s(partial(torch._int_mm, codes, weight.t()), _BUDGET_S)
    for dtype in (torch.bfloat16, torch.float32):
        linear = partial(torch.nn.functional.linear, codes.to(dtype), weight.to(dtype))
        rates[str(dtype).removeprefix("torch.")] = operations / _best_s(linear, _BUDGET_S)
    return rates


def _best_s(call: Callable[[], object], budget_s: float) -> float:
    """Return the time of the fastest call within the budget, after one call to warm up."""
    call()
    best, until = float("inf"), time.perf_counter() + budget_s
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
