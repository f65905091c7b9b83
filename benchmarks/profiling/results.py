"""The figures of benchmarks/profiling/run.py as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.peers.results import place, title
from benchmarks.profiling.kernel_kinds import ORDER

_AROUND = {
    "before": "log-mel features and prompt",
    "between": "choosing tokens",
    "after": "tokens to text",
}


def tables(results: dict[str, Any]) -> str:
    """A table for each shape, what it adds up to, and where it was measured."""
    parts = []
    for entry in results["entries"]:
        told = entry["parts"]
        parts += [f"**{title(entry)}**", table(told), f"{sums(told)}\n{token(told)}"]
    return "\n\n".join([*parts, place(results)])


def table(told: dict[str, Any]) -> str:
    """A row for each part, those of a graph under it."""
    whole = statistics.median(told["whole_s"])
    lines = [["", "ms", "of the whole"], ["---", "---:", "---:"]]
    for name, seconds, calls in rows(told):
        count = f", {calls} calls" if calls > 1 else ""
        cells = (f"{1e3 * seconds:z.1f}", f"{seconds / whole:z.0%}")  # z: no zero below zero
        lines.append([f"{name}{count}", *cells])
    lines.append(["**whole**", f"**{1e3 * whole:.1f}**", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(told: dict[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, seconds and calls of each part, in the order of a transcription."""
    yield _AROUND["before"], told["around_s"]["before"], 1
    for graph, seconds in told["graphs_s"].items():
        yield f"**{graph}**", seconds, 1
        kernels = told["kernels"][graph]
        for kind in ORDER:
            of_kind = [kernel for kernel in kernels if kernel["kind"] == kind]
            if of_kind:
                calls = sum(kernel["calls"] for kernel in of_kind)
                yield f"- {kind}", sum(kernel["seconds"] for kernel in of_kind), calls
        yield "- between its kernels", seconds - in_kernels(told, graph), 1
    for name in ("between", "after"):
        yield _AROUND[name], told["around_s"][name], 1


def in_kernels(told: dict[str, Any], graph: str) -> float:
    """Seconds of all kernels of a graph."""
    return float(sum(kernel["seconds"] for kernel in told["kernels"][graph]))


def sums(told: dict[str, Any]) -> str:
    """What the parts add up to, with the kernels as they were under the profiler."""
    whole, profiled = (statistics.median(told[name]) for name in ("whole_s", "profiled_s"))
    parts = sum(in_kernels(told, graph) for graph in told["graphs_s"])
    parts += sum(told["around_s"].values())
    return (
        f"Kernels and what lies around the graphs add up to {1e3 * parts:.1f} ms, "
        f"{parts / whole:.0%} of the whole; under the profiler that takes {1e3 * profiled:.1f} ms."
    )


def token(told: dict[str, Any]) -> str:
    """A decoder's token: bytes, time, and both held against the machine's memory."""
    read = told["token"]["bytes"]
    total, seconds = sum(read.values()), told["token"]["seconds"]
    rate, most = total / seconds, told["memory_read_bytes_per_s"]
    return (
        f"A token reads {total / 1e6:.1f} MB ({read['weights'] / 1e6:.1f} of weights, "
        f"{read['audio'] / 1e6:.1f} of the audio's keys and values, {read['own'] / 1e6:.1f} of its "
        f"own) in {1e3 * seconds:.2f} ms: {rate / 1e9:.1f} GB/s, where the machine read "
        f"{most / 1e9:.1f} GB/s: {most / rate:.2f} times as long as reading alone."
    )
