"""Measure a card: its copy bandwidth by the driver alone, and its fp16 products by torch.

A decoder reads every weight once per token, so bandwidth bounds it; an encoder consists of matrix
products. Events on the card take the times, so that what the process does meanwhile counts not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_float, c_size_t, c_uint64, c_void_p
from typing import Any

from exporter.system import accelerators
from exporter.system.accelerators import CardContext

_BUFFER_BYTES = 1 << 30
_COPIES = 10  # in one measurement, of which the best of `_ROUNDS` counts
_ROUNDS = 5
_WIDTH = 8192


def measure_cards() -> list[dict[str, Any]]:
    """Measure the first card, the one that artifacts run on.

    Returns:
        Nothing without a card; else one entry with its `name`, `copy_bytes_per_s` (read and
        written together), `fp16_per_s`, the additions and multiplications a second of a product of
        8192 by 8192 by 8192, or None with `missing`, the reason.

    Raises:
        MachineError: The driver refuses.
    """
    cards = accelerators.cards()
    if not cards:
        return []
    rate, missing = _fp16_per_s()
    measured = {"name": cards[0].name, "copy_bytes_per_s": copy_rate(), "fp16_per_s": rate}
    return [{**measured, **({"missing": missing} if missing else {})}]


def copy_rate() -> float:
    """Measure copies of 1 GiB, or of a quarter of what is free, within the card's memory.

    Returns:
        Bytes a second: each byte counts twice, read and written, as in STREAM's copy.
    """
    context = CardContext()
    size = min(_BUFFER_BYTES, context.free_bytes() // 4)
    with _buffer(context, size) as source, _buffer(context, size) as target:
        best = min(_copies_s(context, target, source, size) for _ in range(_ROUNDS + 1))
    return 2 * _COPIES * size / best


@contextmanager
def _buffer(context: CardContext, size: int) -> Iterator[c_uint64]:
    place = c_uint64()
    context.call("cuMemAlloc_v2", byref(place), c_size_t(size))
    try:
        yield place
    finally:
        context.call("cuMemFree_v2", place)


@contextmanager
def _event(context: CardContext) -> Iterator[c_void_p]:
    event = c_void_p()
    context.call("cuEventCreate", byref(event), 0)
    try:
        yield event
    finally:
        context.call("cuEventDestroy_v2", event)


def _copies_s(context: CardContext, target: c_uint64, source: c_uint64, size: int) -> float:
    """Return the seconds of some copies, between two events."""
    elapsed = c_float()
    with _event(context) as start, _event(context) as end:
        context.call("cuEventRecord", start, None)
        for _ in range(_COPIES):
            context.call("cuMemcpyDtoDAsync_v2", target, source, c_size_t(size), None)
        context.call("cuEventRecord", end, None)
        context.call("cuEventSynchronize", end)
        context.call("cuEventElapsedTime", byref(elapsed), start, end)
    return elapsed.value / 1000


def _fp16_per_s() -> tuple[float | None, str]:
    """Return the operations a second of an fp16 product, or None with what is missing."""
    try:
        import torch
    except ModuleNotFoundError:
        return None, "torch is not installed"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} computes on no card"
    left, right = (
        torch.randn(_WIDTH, _WIDTH, device="cuda", dtype=torch.float16) for _ in range(2)
    )
    best = float("inf")
    for _ in range(_ROUNDS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_COPIES):
            torch.mm(left, right)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1000)
    return 2 * _COPIES * _WIDTH**3 / best, ""
