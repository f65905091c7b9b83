"""Choosing a graph's variant by the clock, where its dtype is auto.

Every candidate is compiled as the build itself would, for models of few layers with the
checkpoint's own width, heads and vocabulary, and timed on inputs of the real shapes. From two
depths the time of a layer follows, and so that of the whole graph: what stands once (convolutions,
the vocabulary's projection) would else count for far more than it is.
"""

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, nn

from exporter.artifact.manifest import AutotuneResult
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.families.graph import Graph, parameter_names
from exporter.quantization.plan import QuantizationPlan
from exporter.system.accelerators import Device
from exporter.system.hardware import caches, describe
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.graph_builder import Setup, build_graph, prepared, taken
from exporter.targets.aoti.options import Options, Variant
from exporter.targets.aoti.package import Package, TensorSpec, read_spec
from exporter.targets.base import Job

Key = TypeVar("Key")

# A larger variant must be faster than a smaller one by so much: more than two runs ever differ.
_MARGIN = 0.1
# Up to so many layers a model is timed whole, and what was compiled then serves the build.
_WHOLE = 4
_DEPTHS = (1, 3)
_WARM_UPS, _FEWEST, _MOST = 2, 5, 60
_BUDGET_S = 4.0
_UNTOLD_CACHE_BYTES = 1 << 27
# malloc.h; the bound that glibc itself would reach after a few large blocks, and its first for
# trimming.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_BYTES, _TRIM_BYTES = 32 << 20, 128 << 10
_SPREAD = 0.02  # of random weights, as of those that training begins with


def candidates(
    options: Options, plan: QuantizationPlan, graph: Graph, model: nn.Module
) -> dict[str, Variant]:
    """The variants that a graph may take, by name: the smaller, and then the simpler, first.

    Those with products in bfloat16 where the CPU has them: elsewhere they are float32 in disguise.
    A graph that writes caches works on few rows, which our kernels always serve. One without a
    quantized module has a choice of types only.
    """
    modules = {name.rpartition(".")[0] for name in parameter_names(graph, model).values()}
    bfloat16 = {"bfloat16": Variant("bfloat16", onednn=False, quantized=False)}
    if modules.isdisjoint(plan.quantized):
        return {"float32": Variant("float32", onednn=False), **(bfloat16 if options.bf16 else {})}
    many = not graph.mutated
    found = {"int8": Variant("float32", onednn=False)}
    if options.vnni and many:
        found["int8 by oneDNN"] = Variant("float32", onednn=True)
    if options.bf16:
        amx = options.knows_amx and many
        found |= {"int8 in bfloat16": Variant("bfloat16", onednn=amx), **bfloat16}
    return found


def largest(setup: Setup, model: nn.Module, checkpoint: Checkpoint, family: Family) -> Setup:
    """The setup with every open graph in its largest variant: what there must be room for."""
    offered = _offered(setup, model, family)
    settled = _first_of_each(setup, offered)
    for name, found in offered.items():
        ways = [settled.with_variant(name, variant) for variant in found.values()]
        settled = max(ways, key=lambda way: _weight_bytes(way, checkpoint, family, name))
    return settled


def num_trials(setup: Setup, model: nn.Module, checkpoint: Checkpoint, family: Family) -> int:
    """How many graphs `choose` will compile to time them."""
    return sum(
        len(found) * len(_depths(_layers(checkpoint, family, name)))
        for name, found in _offered(setup, model, family).items()
        if len(found) > 1
    )


def choose(job: Job[Options], setup: Setup) -> tuple[Setup, dict[str, AutotuneResult]]:
    """Settle what the options leave open, and tell by which figures."""
    offered = _offered(setup, _skeleton(job), job.family)
    settled = _first_of_each(setup, offered)
    choices = {}
    for name, found in offered.items():
        choices[name] = _choice(job, settled, name, found)
        settled = settled.with_variant(name, found[choices[name].chosen])
    if offered:
        settled = replace(settled, options=setup.options.settled(settled.variants))
    return settled, choices


def _layers(checkpoint: Checkpoint, family: Family, name: str) -> int:
    count: int = checkpoint.config[family.LAYERS[name]]
    return count


def _depths(layers: int) -> tuple[int, ...]:
    """How deep the models are on which a graph of so many layers is timed."""
    return (layers,) if layers <= _WHOLE else _DEPTHS


def _offered(setup: Setup, model: nn.Module, family: Family) -> dict[str, dict[str, Variant]]:
    """The candidates of every graph that the options leave open."""
    graphs = family.graphs(model, cache="static")
    return {
        graph.name: candidates(setup.options, setup.plan, graph, model)
        for graph in graphs
        if setup.variants[graph.name].open
    }


def _first_of_each(setup: Setup, offered: Mapping[str, Mapping[str, Variant]]) -> Setup:
    """The setup with the first candidate of every graph that is open."""
    firsts = {name: next(iter(found.values())) for name, found in offered.items()}
    return replace(setup, variants={**setup.variants, **firsts})


def _choice(
    job: Job[Options], setup: Setup, name: str, found: Mapping[str, Variant]
) -> AutotuneResult:
    depth = _layers(job.checkpoint, job.family, name)
    if len(found) == 1:
        return AutotuneResult(chosen=next(iter(found)), depth=depth)
    depths = _depths(depth)
    with TemporaryDirectory(prefix=".choosing-", dir=job.folder) as folder:
        runs = _runs(job, setup, name, found, depths, Path(folder))
        job.progress(f"timing {name} as {', '.join(found)}", None)
        with _as_loaded(job.options.threads):
            medians = measure(runs)
    seconds = {
        candidate: extrapolated({layers: medians[candidate, layers] for layers in depths}, depth)
        for candidate in found
    }
    rounded = {candidate: float(f"{value:.4g}") for candidate, value in seconds.items()}
    return AutotuneResult(chosen=decide(rounded), seconds=rounded, layers=depths, depth=depth)


def decide(seconds: Mapping[str, float]) -> str:
    """The first candidate, unless a later one is clearly faster than the best before it."""
    chosen, *others = seconds
    for other in others:
        if seconds[other] < (1 - _MARGIN) * seconds[chosen]:
            chosen = other
    return chosen


def extrapolated(seconds: Mapping[int, float], depth: int) -> float:
    """The time of a graph of `depth` layers, from those of one or two depths."""
    (few, first), (many, last) = min(seconds.items()), max(seconds.items())
    layer = max(last - first, 0.0) / (many - few) if many > few else 0.0
    return last + (depth - many) * layer


@dataclass(frozen=True)
class Run:
    """A call to be timed, and the bytes that a whole model would read beside it."""

    call: Callable[[], object]
    absent_bytes: int = 0


def measure(
    runs: Mapping[Key, Run], clock: Callable[[], float] = time.perf_counter
) -> dict[Key, float]:
    """The median seconds of each run, in rounds through all of them, every other one backwards.

    Each timed call follows another of the same run, and then as much reading as the absent layers
    would do, so that it finds in the caches what it would find there in the whole model.
    """
    absent = torch.ones(max(run.absent_bytes for run in runs.values()) // 4)
    for run in [*runs.values()] * _WARM_UPS:
        run.call()
    seconds: dict[Key, list[float]] = {key: [] for key in runs}
    begun, rounds = clock(), 0
    while rounds < _FEWEST or (rounds < _MOST and clock() - begun < _BUDGET_S):
        for key, run in [*runs.items()][:: -1 if rounds % 2 else 1]:
            run.call()
            absent[: run.absent_bytes // 4].sum()
            start = clock()
            run.call()
            seconds[key].append(clock() - start)
        rounds += 1
    return {key: statistics.median(times) for key, times in seconds.items()}


def _runs(
    job: Job[Options],
    setup: Setup,
    name: str,
    found: Mapping[str, Variant],
    depths: tuple[int, ...],
    folder: Path,
) -> dict[tuple[str, int], Run]:
    """Compile every candidate at every depth, and give all the same weights and inputs."""
    depth = _layers(job.checkpoint, job.family, name)
    weights: dict[tuple[str, str], Tensor] = {}
    runs: dict[tuple[str, int], Run] = {}
    for candidate, variant in found.items():
        wanted = setup.with_variant(name, variant)
        whole = _weight_bytes(wanted, job.checkpoint, job.family, name)
        for layers in depths:
            place = folder / f"{len(runs)}"
            place.mkdir()
            cut = _cut(job, layers / depth, place)
            small = replace(wanted, plan=cut.plan)
            told = _telling(cut, f"as {candidate}, {layers} layers, to time it")
            build_graph(told, small, name, taken(cut, small))
            absent = whole - _weight_bytes(small, cut.checkpoint, job.family, name)
            call = _call(place / f"{name}.pt2", weights, cut.device)
            runs[candidate, layers] = Run(call, min(absent, _beyond_caches()))
    return runs


def _telling(job: Job[Options], why: str) -> Job[Options]:
    return replace(job, progress=lambda what, done: job.progress(f"{what} {why}", done))


def _cut(job: Job[Options], share: float, folder: Path) -> Job[Options]:
    """The job on a model with only a share of each part's layers, at least one."""
    config = job.checkpoint.config
    counts = {key: max(1, round(config[key] * share)) for key in job.family.LAYERS.values()}
    fewer = replace(job.checkpoint, config={**config, **counts})
    cut = replace(job, checkpoint=fewer, folder=folder)
    model = _skeleton(cut)
    there = model.state_dict().keys()
    stored = {name: info for name, info in fewer.tensors.items() if name in there}
    modules = {name for name, _ in model.named_modules()}
    return replace(
        cut,
        checkpoint=replace(fewer, tensors=stored),
        plan=job.plan.limited_to(modules),
    )


def _skeleton(job: Job[Options]) -> nn.Module:
    return job.family.skeleton(job.checkpoint.config)


def _weight_bytes(setup: Setup, checkpoint: Checkpoint, family: Family, name: str) -> int:
    graph, _, _ = prepared(setup, checkpoint, family, name)
    return sum(parameter.nbytes for parameter in graph.module.parameters())


def _beyond_caches() -> int:
    """As much as makes everybody's last cache forget what was there: twice of what there is."""
    told = caches()
    if not told:
        return _UNTOLD_CACHE_BYTES
    last = max(told, key=lambda cache: cache.level)
    return 2 * last.size_bytes * -(-describe().cores // last.cores)


def _call(
    path: Path, weights: dict[tuple[str, str], Tensor], device: Device
) -> Callable[[], object]:
    """A compiled graph on random weights, kept in `weights` for others that have the same."""
    spec, own = read_spec(path), {}
    memory = SUPPORT[device].torch_device
    for constant in spec.constants.values():
        place = constant.name, constant.dtype
        if place not in weights:
            weights[place] = _random(getattr(torch, constant.dtype), constant.shape).to(memory)
        own[constant.name] = weights[place]
    package = Package(path, spec, own, device)
    inputs = {name: _input(tensor).to(memory) for name, tensor in spec.inputs.items()}
    return lambda: package(inputs)


def _random(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Weights of ordinary size: neither denormal nor growing out of bounds."""
    generator = torch.Generator().manual_seed(0)
    if not dtype.is_floating_point:
        return torch.randint(-127, 128, shape, dtype=dtype, generator=generator)
    if len(shape) < 2:  # biases, norms and scales
        return torch.full(shape, _SPREAD, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(std=_SPREAD, generator=generator)


def _input(spec: TensorSpec) -> Tensor:
    """One of everything that may be several: one recording, one row, one token.

    Numbers are random; tokens, positions and coded caches are zeros, which is valid for each.
    """
    shape = [axis if isinstance(axis, int) else 1 for axis in spec.shape]
    made = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    random = made.is_floating_point() and not spec.mutated
    return made.normal_(generator=torch.Generator().manual_seed(0)) if random else made


@contextmanager
def _as_loaded(threads: int | None) -> Iterator[None]:
    """Threads as the packages will have them, and memory: what is freed serves the next call.

    A build's own processes give it back at once, which takes as long as the arithmetic itself.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    frugal = int(os.environ.get("MALLOC_MMAP_THRESHOLD_", "0"))
    glibc = ctypes.CDLL(None)
    if frugal:
        glibc.mallopt(_M_MMAP_THRESHOLD, _MOST_BYTES)
        glibc.mallopt(_M_TRIM_THRESHOLD, 2 * _MOST_BYTES)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if frugal:
            glibc.mallopt(_M_MMAP_THRESHOLD, frugal)
            glibc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
