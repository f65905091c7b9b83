"""Time the parts of whole transcriptions in one fresh process, for benchmarks/profiling/run.py.

Two models take turns: the artifact as it is, with a clock around each call of a graph, and the
same one with marked kernels under torch's profiler. So both meet the same phases of the machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.peers.workers.worker import foreign_cpu_s, versions_of
from benchmarks.profiling.kernel_kinds import kinds
from exporter.artifact.store import read_manifest
from exporter.bench.microbench import memory_read
from exporter.recipe import Decoding
from exporter.recognition.load import load
from exporter.targets import TARGETS
from exporter.targets.aoti.package import TensorSpec, read_spec

_WARM_UPS = 2  # beside the one that compares tokens
_GRAPH = "graph: "  # marks of whole graphs in a profile
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


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Open both models, warm them up, and time them in turns."""
    plain = load(asked["plain"], threads=asked["threads"])
    manifest = read_manifest(Path(asked["plain"]))
    marked = TARGETS["aoti"].load(Path(asked["marked"]), manifest, plain.family, asked["threads"])
    windows = list(np.load(asked["audio"]))
    decoding = Decoding(language="en", task="transcribe")
    for model in (plain.model, marked):
        plain.family.force_tokens(model, asked["tokens"])

    def transcribe(model: Any) -> list[tuple[int, ...]]:
        told = plain.family.transcribe(model, plain.processor, windows, decoding)
        return [transcript.tokens for transcript in told]

    if transcribe(plain.model) != transcribe(marked):
        msg = "the marked packages decode other tokens than the artifact"
        raise SystemExit(msg)
    for model in (plain.model, marked) * _WARM_UPS:
        transcribe(model)
    before, started = foreign_cpu_s(), time.monotonic()
    passes = [
        (clocked(plain.model, transcribe), profiled(marked, transcribe))
        for _ in range(asked["runs"])
    ]
    foreign = (foreign_cpu_s() - before) / (time.monotonic() - started) / asked["threads"]
    return {
        "versions": versions_of(("asr-exporter", "torch", "transformers")),
        "foreign_share": round(max(0.0, foreign), 3),
        **summed([clock for clock, _ in passes]),
        "profiled_s": [seconds for _, (seconds, _) in passes],
        "kernels": joined([kernels for _, (_, kernels) in passes]),
        "token": token(asked["plain"], [call for (_, calls, _), _ in passes for call in calls]),
        "memory_read_bytes_per_s": memory_read()["read_bytes_per_s"],
    }


def clocked(model: Any, transcribe: Callable[[Any], Any]) -> tuple[float, list[Call], float]:
    """When a transcription began, its graphs' calls, and when it ended."""
    calls: list[Call] = []

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(inputs: dict[str, Any], *wanted: Any) -> Any:
            start = time.perf_counter()
            outputs = function(inputs, *wanted)
            end = time.perf_counter()
            ids, position = inputs.get("input_ids"), inputs.get("position")
            tokens = 0 if ids is None else ids.shape[1]
            calls.append(Call(name, start, end, tokens, 0 if position is None else int(position)))
            return outputs

        return call

    with replaced(model.engine.functions, around):
        start = time.perf_counter()
        transcribe(model)
        end = time.perf_counter()
    return start, calls, end


def profiled(
    model: Any, transcribe: Callable[[Any], Any]
) -> tuple[float, dict[str, dict[str, Any]]]:
    """A transcription's seconds under the profiler, and its kernels by graph."""

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with record_function(_GRAPH + name):
                return function(*given)

        return call

    with (
        replaced(model.engine.functions, around),
        profile(activities=[ProfilerActivity.CPU], acc_events=True) as told,
    ):
        start = time.perf_counter()
        transcribe(model)
        seconds = time.perf_counter() - start
    found: dict[str, dict[str, Any]] = {}
    for event in told.events():
        if event.name.startswith(_GRAPH):
            graph = event.name.removeprefix(_GRAPH)
            inner = sorted(event.cpu_children, key=lambda child: child.time_range.start)
            add(found.setdefault(graph, {}), graph, inner)
    return seconds, found


def add(kernels: dict[str, Any], graph: str, events: Sequence[Any]) -> None:
    """Add the kernels of one call, each under its name and kind."""
    for kind, event in zip(kinds(graph, [event.name for event in events]), events, strict=True):
        told = kernels.setdefault(f"{kind}: {event.name}", {"kind": kind, "calls": 0, "seconds": 0})
        told["calls"] += 1
        told["seconds"] += event.time_range.elapsed_us() / 1e6


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
    spec = read_spec(package)
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
    kind: torch.dtype = getattr(torch, dtype)
    return kind.itemsize * prod(shape)


if __name__ == "__main__":
    answer = json.dumps(measure(json.loads(sys.argv[1])))
    tidy = json.loads(answer, parse_float=lambda number: round(float(number), 7))
    print(json.dumps(tidy), flush=True)
