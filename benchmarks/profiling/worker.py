"""Time the parts of whole transcriptions in one fresh process, for benchmarks/profiling/run.py.

The artifact's own graphs, with a clock around each call, take turns with the same graphs whose
kernels are marked, on the same weights. So both meet the same phases of the machine.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.workers.worker import foreign_cpu_s, versions_of
from benchmarks.profiling.kernel_kinds import kinds
from exporter.bench.microbench import memory_read
from exporter.formats import pt2
from exporter.recognition.load import load
from exporter.runtime.aoti.package import Bound, Package, open_packages
from exporter.runtime.aoti.spec import BITS, TensorSpec, parse

_WARM_UPS = 2  # beside the one that compares tokens
_TABLES = ".embed_"  # of which a token reads one row


@dataclass(frozen=True)
class Call:
    """One call of a graph, by the clock; `position` is that of a decoder's first token."""

    graph: str
    start: float
    end: float
    tokens: int
    position: int

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.end - self.start


class Mark(ctypes.Structure):
    """A kernel's call, as `marks.cpp` tells it."""

    _fields_ = (("name", ctypes.c_char_p), ("seconds", ctypes.c_double))


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Open both kinds of graphs, warm them up, and time them in turns."""
    recogniser = load(asked["plain"], threads=asked["threads"])
    recogniser.opened.force_tokens(asked["tokens"])
    functions = recogniser.opened.functions
    assert functions is not None
    packages = {f"{name}.pt2": (Path(asked["marked"]) / f"{name}.pt2") for name in functions}
    contents = {name: path.read_bytes() for name, path in packages.items()}
    marked = open_packages(Path(asked["plain"]), contents, asked["threads"])
    windows = list(np.load(asked["audio"]))

    def transcribe() -> list[tuple[int, ...]]:
        how = {"language": "en", "batch_size": len(windows)}
        told = recogniser.transcribe(windows, sampling_rate=16_000, **how)
        return [transcript.tokens for transcript in told]

    def transcribe_marked() -> list[tuple[int, ...]]:
        with replaced(functions, lambda name, _: marked[name]):
            return transcribe()

    if transcribe() != transcribe_marked():
        msg = "the marked packages decode other tokens than the artifact"
        raise SystemExit(msg)
    for call in (transcribe, transcribe_marked) * _WARM_UPS:
        call()
    before, started = foreign_cpu_s(), time.monotonic()
    passes = [
        (clocked(functions, transcribe), profiled(functions, marked, transcribe))
        for _ in range(asked["runs"])
    ]
    foreign = (foreign_cpu_s() - before) / (time.monotonic() - started) / asked["threads"]
    return {
        "versions": versions_of(("asr-exporter", "torch")),
        "foreign_share": round(max(0.0, foreign), 3),
        **summed([clock for clock, _ in passes]),
        "profiled_s": [seconds for _, (seconds, _) in passes],
        "kernels": joined([kernels for _, (_, kernels) in passes]),
        "token": token(asked["plain"], [call for (_, calls, _), _ in passes for call in calls]),
        "memory_read_bytes_per_s": memory_read()["read_bytes_per_s"],
    }


def clocked(
    functions: dict[str, Any], transcribe: Callable[[], Any]
) -> tuple[float, list[Call], float]:
    """When a transcription began, its graphs' calls, and when it ended."""
    calls: list[Call] = []

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(inputs: Mapping[str, Any] | Bound) -> Any:
            start = time.perf_counter()
            outputs = function(inputs)
            end = time.perf_counter()
            arrays = inputs.arrays if isinstance(inputs, Bound) else inputs
            ids, position = arrays.get("input_ids"), arrays.get("position")
            tokens = 0 if ids is None else ids.shape[1]
            first = 0 if position is None else int(position[0])
            calls.append(Call(name, start, end, tokens, first))
            return outputs

        return call

    with replaced(functions, around):
        start = time.perf_counter()
        transcribe()
        end = time.perf_counter()
    return start, calls, end


def profiled(
    functions: dict[str, Any], marked: Mapping[str, Package], transcribe: Callable[[], Any]
) -> tuple[float, dict[str, dict[str, Any]]]:
    """A transcription's seconds with marked kernels, and these by graph."""
    found: dict[str, dict[str, Any]] = {}

    def around(name: str, _: Callable[..., Any]) -> Callable[..., Any]:
        def call(inputs: Mapping[str, Any] | Bound) -> Any:
            outputs = marked[name](inputs)
            add(found.setdefault(name, {}), name, marks(marked[name]))
            return outputs

        return call

    for package in marked.values():
        marks(package)  # of earlier calls
    with replaced(functions, around):
        start = time.perf_counter()
        transcribe()
        seconds = time.perf_counter() - start
    return seconds, found


def marks(package: Package) -> list[tuple[str, float]]:
    """Name and seconds of each kernel that ran since the last time, in order."""
    told = ctypes.POINTER(Mark)()
    function = package._library._functions.exporter_marks
    function.restype = ctypes.c_size_t
    count = function(ctypes.byref(told))
    return [(told[place].name.decode(), told[place].seconds) for place in range(count)]


def add(kernels: dict[str, Any], graph: str, called: Sequence[tuple[str, float]]) -> None:
    """Add the kernels of one call, each under its name and kind."""
    for kind, (name, seconds) in zip(
        kinds(graph, [name for name, _ in called]), called, strict=True
    ):
        told = kernels.setdefault(f"{kind}: {name}", {"kind": kind, "calls": 0, "seconds": 0})
        told["calls"] += 1
        told["seconds"] += seconds


@contextmanager
def replaced(functions: dict[str, Any], around: Callable[..., Any]) -> Iterator[None]:
    """Put something around each of a model's functions, which are looked up at every call."""
    originals = dict(functions)
    functions.update({name: around(name, function) for name, function in originals.items()})
    try:
        yield
    finally:
        functions.update(originals)


def summed(passes: Sequence[tuple[float, list[Call], float]]) -> dict[str, Any]:
    """Seconds as a whole, within each graph, and before, between and after them: medians."""
    rows = []
    for start, calls, end in passes:
        graphs = {call.graph: 0.0 for call in calls}
        for call in calls:
            graphs[call.graph] += call.seconds
        around = {"before": calls[0].start - start, "after": end - calls[-1].end}
        around["between"] = end - start - sum(graphs.values()) - sum(around.values())
        rows.append((graphs, around))
    return {
        "whole_s": [end - start for start, _, end in passes],
        "graphs_s": medians([graphs for graphs, _ in rows]),
        "around_s": medians([around for _, around in rows]),
    }


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each value over all rows."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def joined(passes: Sequence[dict[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Each graph's kernels with their median seconds, the longest first."""
    found = {}
    for graph, kernels in passes[0].items():
        rows = [
            {
                "name": name.partition(": ")[2],
                **told,
                "seconds": statistics.median(each[graph][name]["seconds"] for each in passes),
            }
            for name, told in kernels.items()
        ]
        found[graph] = sorted(rows, key=lambda row: -row["seconds"])
    return found


def token(artifact: str, calls: Sequence[Call]) -> dict[str, Any]:
    """What one token after the prompt takes, and the bytes that it reads, on average."""
    steps = [call for call in calls if call.tokens == 1]
    filled = statistics.mean(call.position + 1 for call in steps)
    return {
        "seconds": statistics.median(call.seconds for call in steps),
        "bytes": bytes_read(Path(artifact) / "decoder.pt2", filled),
    }


def bytes_read(package: Path, filled: float) -> dict[str, int]:
    """Weights once, of tables one row; the audio's cache; of its own as far as it is `filled`."""
    with zipfile.ZipFile(package) as members:
        spec = parse(members.read(f"{package.stem}/{pt2.SPEC}"), package)
    weights = sum(
        size(constant.dtype, constant.shape[1:] if _TABLES in constant.name else constant.shape)
        for constant in spec.constants.values()
    )
    caches = [tensor for tensor in spec.inputs.values() if tensor.mutated]
    own = sum(whole(cache) * filled / int(cache.shape[2]) for cache in caches)
    return {"weights": weights, "audio": whole(spec.inputs["cross_cache"]), "own": round(own)}


def whole(tensor: TensorSpec) -> int:
    """The bytes of an input for one window."""
    return size(tensor.dtype, [1 if isinstance(axis, str) else axis for axis in tensor.shape])


def size(dtype: str, shape: Sequence[int]) -> int:
    """The bytes of a tensor."""
    return BITS[dtype] // 8 * prod(shape)


if __name__ == "__main__":
    answer = json.dumps(measure(json.loads(sys.argv[1])))
    tidy = json.loads(answer, parse_float=lambda number: round(float(number), 7))
    print(json.dumps(tidy), flush=True)
