"""Choose a graph's variant by measurement, if its dtype is auto.

Every candidate is compiled as in the build, for models of few layers with the checkpoint's own
width, heads and vocabulary, and timed on inputs of the real shapes. The time of the whole graph is
extrapolated from two depths, because parts that occur once (convolutions, the projection to the
vocabulary) would otherwise count for far more than their share.
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
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.runtime.aoti.spec import TensorSpec
from exporter.system.accelerators import Device
from exporter.system.hardware import caches, describe
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.graph_builder import Setup, build_graph, prepared, taken
from exporter.targets.aoti.options import Options, Variant
from exporter.targets.aoti.package import Package, read_spec
from exporter.targets.base import Job

Key = TypeVar("Key")

UNQUANTIZED = "bfloat16"
"""The candidate whose modules are not quantized."""

# Relative speedup that a larger variant needs to be chosen: more than two equal runs differ.
_MARGIN = 0.1
# Models of up to this many layers are timed whole; the build then reuses the compiled graph.
_WHOLE = 4
_DEPTHS = (1, 3)
_WARM_UPS, _FEWEST, _MOST = 2, 5, 60
_BUDGET_S = 4.0
_DEFAULT_CACHE_BYTES = 1 << 27
# From malloc.h: the mmap threshold that glibc reaches by itself after a few large blocks, and its
# default trim threshold.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_BYTES, _TRIM_BYTES = 32 << 20, 128 << 10
_SPREAD = 0.02  # standard deviation of random weights, as at initialization


def candidates(
    options: Options, plan: QuantizationPlan, graph: Graph, model: nn.Module
) -> dict[str, Variant]:
    """Return the variants of a graph by name, sorted by size, then by simplicity.

    Variants in bfloat16 are candidates only if the CPU multiplies bfloat16: others emulate it in
    float32. A graph that writes caches has few rows, which our kernels serve, so oneDNN is no
    candidate. A graph without quantized modules has a choice of types only; one whose modules are
    quantized for their size stays so.
    """
    modules = {name.rpartition(".")[0] for name in parameter_names(graph, model).values()}
    bfloat16 = {UNQUANTIZED: Variant("bfloat16", onednn=False, quantized=False)}
    if modules.isdisjoint(plan.quantized):
        return {"float32": Variant("float32", onednn=False), **(bfloat16 if options.bf16 else {})}
    if _is_weight_only(plan.limited_to(modules)):
        bfloat16 = {}  # who asks for small weights does not want large ones where they are faster
    many = not graph.mutated
    variants = {"int8": Variant("float32", onednn=False)}
    if options.vnni and many:
        variants["int8 by oneDNN"] = Variant("float32", onednn=True)
    if options.bf16:
        amx = options.knows_amx and many
        variants |= {"int8 in bfloat16": Variant("bfloat16", onednn=amx), **bfloat16}
    return variants


def _is_weight_only(plan: QuantizationPlan) -> bool:
    """Return whether most modules are quantized for their size.

    Not all have to be: an encoder's graph may have a few modules of a decoder.
    """
    quantized = plan.quantized.values()
    return sum(isinstance(scheme, WeightOnly) for scheme in quantized) > len(quantized) / 2


def largest(setup: Setup, model: nn.Module, checkpoint: Checkpoint, family: Family) -> Setup:
    """Return the setup with every open graph in its largest variant, to estimate sizes."""
    offered = _offered(setup, model, family)
    settled = _first_of_each(setup, offered)
    for name, variants in offered.items():
        setups = [settled.with_variant(name, variant) for variant in variants.values()]
        settled = max(setups, key=lambda each: _weight_bytes(each, checkpoint, family, name))
    return settled


def num_trials(setup: Setup, model: nn.Module, checkpoint: Checkpoint, family: Family) -> int:
    """Return the number of graphs that `choose` compiles to time them."""
    return sum(
        len(variants) * len(_depths(_layers(checkpoint, family, name)))
        for name, variants in _offered(setup, model, family).items()
        if len(variants) > 1
    )


def choose(job: Job[Options], setup: Setup) -> tuple[Setup, dict[str, AutotuneResult]]:
    """Choose the variant of every open graph by measurement.

    Returns:
        The setup with the chosen variants, and the measurements of each graph, by its name.
    """
    offered = _offered(setup, _skeleton(job), job.family)
    settled = _first_of_each(setup, offered)
    choices = {}
    for name, variants in offered.items():
        choices[name] = _choice(job, settled, name, variants)
        settled = settled.with_variant(name, variants[choices[name].chosen])
    if offered:
        settled = replace(settled, options=setup.options.settled(settled.variants))
    return settled, choices


def _layers(checkpoint: Checkpoint, family: Family, name: str) -> int:
    count: int = checkpoint.config[family.LAYERS[name]]
    return count


def _depths(layers: int) -> tuple[int, ...]:
    """Return the numbers of layers of the models on which a graph is timed."""
    return (layers,) if layers <= _WHOLE else _DEPTHS


def _offered(setup: Setup, model: nn.Module, family: Family) -> dict[str, dict[str, Variant]]:
    """Return the candidates of every graph that the options leave open."""
    graphs = family.graphs(model, cache="static")
    return {
        graph.name: candidates(setup.options, setup.plan, graph, model)
        for graph in graphs
        if setup.variants[graph.name].open
    }


def _first_of_each(setup: Setup, offered: Mapping[str, Mapping[str, Variant]]) -> Setup:
    """Return the setup with the first candidate of every open graph."""
    firsts = {name: next(iter(variants.values())) for name, variants in offered.items()}
    return replace(setup, variants={**setup.variants, **firsts})


def _choice(
    job: Job[Options], setup: Setup, name: str, variants: Mapping[str, Variant]
) -> AutotuneResult:
    depth = _layers(job.checkpoint, job.family, name)
    if len(variants) == 1:
        return AutotuneResult(chosen=next(iter(variants)), depth=depth)
    depths = _depths(depth)
    with TemporaryDirectory(prefix=".choosing-", dir=job.folder) as folder:
        runs = _runs(job, setup, name, variants, depths, Path(folder))
        job.progress(f"timing {name} as {', '.join(variants)}", None)
        with _as_loaded(job.options.threads):
            medians = measure(runs)
    seconds = {
        candidate: extrapolated({layers: medians[candidate, layers] for layers in depths}, depth)
        for candidate in variants
    }
    rounded = {candidate: float(f"{value:.4g}") for candidate, value in seconds.items()}
    return AutotuneResult(chosen=decide(rounded), seconds=rounded, layers=depths, depth=depth)


def decide(seconds: Mapping[str, float]) -> str:
    """Return the first candidate, or a later one that is clearly faster than the best before it."""
    chosen, *others = seconds
    for other in others:
        if seconds[other] < (1 - _MARGIN) * seconds[chosen]:
            chosen = other
    return chosen


def extrapolated(seconds: Mapping[int, float], depth: int) -> float:
    """Extrapolate the seconds of a graph of `depth` layers from those of one or two depths."""
    (few, first), (many, last) = min(seconds.items()), max(seconds.items())
    layer = max(last - first, 0.0) / (many - few) if many > few else 0.0
    return last + (depth - many) * layer


@dataclass(frozen=True)
class Run:
    """A call to time, and the bytes that the layers left out would read between calls."""

    call: Callable[[], object]
    absent_bytes: int = 0


def measure(
    runs: Mapping[Key, Run], clock: Callable[[], float] = time.perf_counter
) -> dict[Key, float]:
    """Return the median seconds of each run, timed in rounds in alternating order.

    Before each timed call, the same run is called once and as many bytes are read as the absent
    layers have, so that the CPU's caches are as in the whole model.
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
    variants: Mapping[str, Variant],
    depths: tuple[int, ...],
    folder: Path,
) -> dict[tuple[str, int], Run]:
    """Compile every candidate at every depth, with the same weights and inputs for all."""
    depth = _layers(job.checkpoint, job.family, name)
    weights: dict[tuple[str, str], Tensor] = {}
    runs: dict[tuple[str, int], Run] = {}
    for candidate, variant in variants.items():
        wanted = setup.with_variant(name, variant)
        whole = _weight_bytes(wanted, job.checkpoint, job.family, name)
        for layers in depths:
            place = folder / f"{len(runs)}"
            place.mkdir()
            cut = _cut(job, layers / depth, place)
            small = replace(wanted, plan=cut.plan)
            labelled = _with_label(cut, f"as {candidate}, {layers} layers, to time it")
            build_graph(labelled, small, name, taken(cut, small))
            absent = whole - _weight_bytes(small, cut.checkpoint, job.family, name)
            call = _call(place / f"{name}.pt2", weights, cut.device)
            runs[candidate, layers] = Run(call, min(absent, _beyond_caches()))
    return runs


def _with_label(job: Job[Options], label: str) -> Job[Options]:
    return replace(job, progress=lambda what, done: job.progress(f"{what} {label}", done))


def _cut(job: Job[Options], share: float, folder: Path) -> Job[Options]:
    """Return the job for a model with only a share of each part's layers, at least one."""
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
    """Return the bytes to read to evict all last-level caches: twice their total size."""
    all_caches = caches()
    if not all_caches:
        return _DEFAULT_CACHE_BYTES
    last = max(all_caches, key=lambda cache: cache.level)
    return 2 * last.size_bytes * -(-describe().cores // last.cores)


def _call(
    path: Path, weights: dict[tuple[str, str], Tensor], device: Device
) -> Callable[[], object]:
    """Return a call of a compiled graph on random weights, shared through `weights`."""
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
    """Return random weights of a usual size: no denormals, and no overflow over the layers."""
    generator = torch.Generator().manual_seed(0)
    if not dtype.is_floating_point:
        low, high = (0, 256) if dtype == torch.uint8 else (-127, 128)
        return torch.randint(low, high, shape, dtype=dtype, generator=generator)
    if len(shape) < 2:  # biases, norms and scales
        return torch.full(shape, _SPREAD, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(std=_SPREAD, generator=generator)


def _input(spec: TensorSpec) -> Tensor:
    """Return an input with dynamic axes of size 1: one recording, one row, one token.

    Floats are random; tokens, positions and quantized caches are zeros, which is valid for each.
    """
    shape = [axis if isinstance(axis, int) else 1 for axis in spec.shape]
    tensor = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    random = tensor.is_floating_point() and not spec.mutated
    return tensor.normal_(generator=torch.Generator().manual_seed(0)) if random else tensor


@contextmanager
def _as_loaded(threads: int | None) -> Iterator[None]:
    """Set threads and the memory allocator as they are when packages are loaded.

    Processes of a build return freed memory at once, which takes as long as the arithmetic itself;
    here the allocator keeps it for the next call.
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
