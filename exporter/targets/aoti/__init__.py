"""aoti: torch.export graphs compiled ahead of time by AOTInductor, one `.pt2` package each.

The packages hold native code, so this target is strict at both ends: what the compiler may emit is
pinned to an x86-64 level that the manifest names, and nothing of a package is opened before the
machine and the package's members have been checked. Loading needs no compiler.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn.utils import parametrize

from exporter.artifact import Manifest, Needs
from exporter.errors import MachineError, RecipeError
from exporter.families import Family
from exporter.graphs import Graph, parameter_names
from exporter.job import Job
from exporter.machine import describe, level_features, require_features
from exporter.quantize import Plan, Weights, plan_linears, replace_module
from exporter.targets.aoti.compiling import compile_graph, require_compiler
from exporter.targets.aoti.linear import Activations, Converted, Int8Linear, Widened
from exporter.targets.aoti.package import Package, read_spec

__all__ = ["Options", "build", "check", "load"]

Precision = Literal["float32", "bfloat16"]
Level = Literal["x86-64-v3", "x86-64-v4"]
_VNNI = "avx512_vnni"


class Options(BaseModel):
    """`dtype` and `int8` hold for all graphs, or by graph name (one not named has the default).

    `march` bounds the instructions that are compiled in. `vnni`, only with x86-64-v4, multiplies
    int8 by int8; without it int8 weights are widened. Both default to what this machine has.
    `threads` is baked in; without it the packages follow their process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu"] = "cpu"
    dtype: Precision | dict[str, Precision] = "float32"
    int8: bool | dict[str, bool] = True
    march: Level = Field(default_factory=lambda: _this_level())
    vnni: bool = Field(
        default_factory=lambda data: (
            data.get("march") == "x86-64-v4" and _VNNI in describe().features
        )
    )
    threads: int | None = Field(default=None, ge=1)
    exclude: tuple[str, ...] = ()
    include_lm_head: bool = True

    @model_validator(mode="after")
    def _vnni_needs_avx512(self) -> "Options":
        if self.vnni and self.march != "x86-64-v4":
            msg = "`vnni` goes with `march: x86-64-v4` only"
            raise ValueError(msg)
        return self

    def precision(self, graph: str) -> torch.dtype:
        """What a graph computes in."""
        name = self.dtype if isinstance(self.dtype, str) else self.dtype.get(graph, "float32")
        return torch.float32 if name == "float32" else torch.bfloat16

    def quantized(self, graph: str) -> bool:
        """Whether a graph's linear modules are int8."""
        return self.int8 if isinstance(self.int8, bool) else self.int8.get(graph, True)


def check(options: Options, model: nn.Module, family: Family) -> None:
    """Refuse graph names and patterns that fit nothing, and a machine without a compiler."""
    names = [graph.name for graph in family.graphs(model, cache="static")]
    for field in ("dtype", "int8"):
        value = getattr(options, field)
        unknown = sorted(set(value) - set(names)) if isinstance(value, dict) else []
        if unknown:
            msg = f"{field}: there is no graph {unknown[0]!r}; the graphs are {', '.join(names)}"
            raise RecipeError(msg)
    plan_linears(model, exclude=_kept(options, family))
    require_features(_features(options), f"march {options.march}")
    require_compiler()


def build(job: Job[Options]) -> Needs:
    """Compile one package per graph of the family's static cut."""
    options = job.options
    names = [graph.name for graph in _graphs(job, torch.float32)]
    check(options, job.family.skeleton(job.checkpoint.config), job.family)
    cuts = {dtype: _graphs(job, dtype) for dtype in {options.precision(name) for name in names}}
    taken = {
        name: tensor.dtype
        for index, graph in enumerate(names)
        for name, tensor in cuts[options.precision(graph)][index].inputs.items()
    }
    for done, name in enumerate(names):
        job.progress(f"compiling {name}", done / len(names))
        _build_graph(job, name, taken)
    return Needs(cpu_features=tuple(sorted(_features(options))), packages=("torch",))


def load(folder: Path, manifest: Manifest, family: Family, threads: int) -> Any:
    """Check the machine and the packages, then open them and join them into a model."""
    require_features(manifest.needs.cpu_features, str(folder))
    built, here = (_minor(v) for v in (manifest.versions.get("torch", "?"), torch.__version__))
    if built != here:
        msg = (
            f"{folder} was compiled for torch {built}, and this is torch {here}.\n"
            f"Install torch {built} or build the artifact again."
        )
        raise MachineError(msg)
    baked = manifest.options.get("threads")
    if baked not in (None, threads):
        msg = f"{folder} was compiled for {baked} threads, not {threads}: leave --threads out"
        raise MachineError(msg)
    specs = {path: read_spec(path) for path in sorted(folder.glob("*.pt2"))}
    functions = {path.stem: Package(path, spec) for path, spec in specs.items()}
    caches = {t.dtype for spec in specs.values() for t in spec.inputs.values() if t.mutated}
    return family.assemble(folder, functions, getattr(torch, min(caches, default="float32")))


def _build_graph(job: Job[Options], name: str, taken: Mapping[str, torch.dtype]) -> None:
    """Compile one graph of a model of its own, so that its memory is free before the next."""
    options = job.options
    model = job.family.skeleton(job.checkpoint.config, options.precision(name))
    plan = plan_linears(model, exclude=_kept(options, job.family))
    if not options.quantized(name):
        plan = Plan()
    activations = Activations() if options.vnni else None
    for module in plan.modules:
        linear = model.get_submodule(module)
        assert isinstance(linear, nn.Linear)
        replace_module(model, module, Int8Linear(linear, activations))
    graph = next(g for g in job.family.graphs(model, cache="static") if g.name == name)
    weights = Weights(job.checkpoint, plan, job.family.TIED)
    _fill(graph, parameter_names(graph, model), weights, options.precision(name))
    # A graph gives each output in the type in which the next graph takes it.
    converted = Converted(graph.module, [taken.get(output) for output in graph.outputs])
    path = job.folder / f"{name}.pt2"
    compile_graph(graph, converted, path, march=options.march, threads=options.threads)


def _fill(graph: Graph, names: Mapping[str, str], weights: Weights, dtype: torch.dtype) -> None:
    """Read the graph's weights, tied ones once.

    Tables and convolution kernels of a 16-bit checkpoint stay in 16 bits and are widened when used.
    """
    filled: dict[tuple[int, bool], nn.Parameter] = {}
    for name, stored in names.items():
        owner, _, leaf = name.rpartition(".")
        module = graph.module.get_submodule(owner)
        absent = getattr(module, leaf)
        if not absent.is_meta:  # a module that is reached by two paths
            continue
        table = absent.ndim > 1 and not isinstance(module, nn.Linear)
        widened = table and dtype == torch.float32 and weights.dtype(stored).itemsize == 2
        key = id(absent), widened
        if key not in filled:
            tensor = weights.read(stored)
            if tensor.is_floating_point() and not widened:
                tensor = tensor.to(absent.dtype)
            filled[key] = nn.Parameter(tensor.contiguous(), requires_grad=False)
        setattr(module, leaf, filled[key])
        if widened:
            parametrize.register_parametrization(module, leaf, Widened(), unsafe=True)


def _graphs(job: Job[Options], dtype: torch.dtype) -> list[Graph]:
    return job.family.graphs(job.family.skeleton(job.checkpoint.config, dtype), cache="static")


def _kept(options: Options, family: Family) -> tuple[str, ...]:
    return (*options.exclude, *(() if options.include_lm_head else (family.HEAD,)))


def _features(options: Options) -> frozenset[str]:
    """Everything that the packages may ask of a CPU."""
    return level_features(options.march) | ({_VNNI} if options.vnni else set())


def _this_level() -> Level:
    isa = describe().isa
    for level in get_args(Level):
        if isa == level:
            return level  # type: ignore[no-any-return]
    msg = f"aoti compiles for {' or '.join(get_args(Level))}, and this machine is {isa}"
    raise MachineError(msg)


def _minor(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:2])
