"""aoti: torch.export graphs compiled ahead of time by AOTInductor, one `.pt2` package each.

The packages hold code and no weights: those lie beside them in one safetensors file, which loading
maps into memory. So weights are streamed like everybody else's, and compiling needs none of them.

The packages hold native code, so this target is strict at both ends: what the compiler may emit is
pinned to an x86-64 level that the manifest names, and nothing of a package is opened before the
machine and the package's members have been checked. Loading needs no compiler.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact import Manifest, Needs
from exporter.cache import obtain
from exporter.checkpoint import Checkpoint
from exporter.errors import MachineError, RecipeError
from exporter.families import Family
from exporter.graphs import Graph, parameter_names
from exporter.job import Job
from exporter.machine import describe, installed_versions, level_features, require_features
from exporter.quantize import Plan, Weights, keep_narrow, plan_linears, replace_module
from exporter.targets.aoti.compiling import compile_graph, compiler_version, require_compiler
from exporter.targets.aoti.linear import Activations, Converted, Int8Linear
from exporter.targets.aoti.package import Package, read_spec
from exporter.tensors import Layout, safetensors_bytes, write_safetensors

__all__ = ["Options", "build", "check", "layout", "load"]

Precision = Literal["float32", "bfloat16"]
Level = Literal["x86-64-v3", "x86-64-v4"]
_VNNI, _BF16 = "avx512_vnni", "avx512_bf16"
# Native code in a package: what is there once, and about what one module with weights takes.
_WEIGHTS = "weights.safetensors"
_CODE_BYTES = 150_000
_MODULE_BYTES = 3_000


class Options(BaseModel):
    """`dtype` and `int8` hold for all graphs, or by graph name (one not named has the default).

    `march` bounds the instructions that are compiled in; `vnni` and `bf16`, only with x86-64-v4,
    add those of int8 and bfloat16 to our own kernels. Without `vnni` an encoder's int8 weights are
    widened. `onednn` leaves an encoder's int8 products to oneDNN, which knows AMX. All default to
    what this machine has. `threads` is baked in; without it the packages follow their process.
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
    bf16: bool = Field(
        default_factory=lambda data: (
            data.get("march") == "x86-64-v4" and _BF16 in describe().features
        )
    )
    onednn: bool = Field(
        default_factory=lambda data: bool(data.get("vnni")) and "amx_int8" in describe().features
    )
    threads: int | None = Field(default=None, ge=1)
    exclude: tuple[str, ...] = ()
    include_lm_head: bool = True

    @model_validator(mode="after")
    def _extensions_need_avx512(self) -> "Options":
        for name in ("vnni", "bf16"):
            if getattr(self, name) and self.march != "x86-64-v4":
                msg = f"`{name}` goes with `march: x86-64-v4` only"
                raise ValueError(msg)
        return self

    @property
    def extensions(self) -> tuple[str, ...]:
        """CPU features beyond the level that may be compiled in."""
        asked = {_VNNI: self.vnni, _BF16: self.bf16}
        return tuple(name for name, wanted in asked.items() if wanted)

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


def layout(
    options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> dict[str, int]:
    """Foretell the files' sizes: weights to the byte or nearly, code about right."""
    files: dict[str, int] = {}
    tensors: Layout = {}
    for name in [graph.name for graph in family.graphs(model, cache="static")]:
        graph, own, _ = _prepared(options, checkpoint, family, name)
        # What an earlier graph holds, like the cross-attention's keys, this one does not use.
        names = parameter_names(graph, own)
        kept = {names[n]: t for n, t in graph.module.named_parameters() if names[n] not in tensors}
        modules = len({n.rpartition(".")[0] for n in kept})
        files[f"{name}.pt2"] = _CODE_BYTES + _MODULE_BYTES * modules
        tensors |= {n: (t.dtype, tuple(t.shape)) for n, t in kept.items()}
    return {**files, _WEIGHTS: safetensors_bytes(tensors)}


def build(job: Job[Options]) -> Needs:
    """Compile one package per graph of the family's static cut, then write all weights once."""
    options = job.options
    names = [graph.name for graph in _graphs(job, torch.float32)]
    check(options, job.family.skeleton(job.checkpoint.config), job.family)
    cuts = {dtype: _graphs(job, dtype) for dtype in {options.precision(name) for name in names}}
    taken = {
        name: tensor.dtype
        for index, graph in enumerate(names)
        for name, tensor in cuts[options.precision(graph)][index].inputs.items()
    }
    tensors: Layout = {}
    readers: dict[str, Weights] = {}
    for name in names:
        used, weights = _build_graph(job, name, taken)
        tensors |= used
        readers |= dict.fromkeys(used, weights)

    def read(name: str) -> Tensor:
        return readers[name].read(name).to(tensors[name][0])

    write_safetensors(job.folder / _WEIGHTS, tensors, read, job.progress)
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
    with safe_open(folder / _WEIGHTS, framework="pt") as file:  # mapped, and shared by all graphs
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    functions = {path.stem: Package(path, spec, weights) for path, spec in specs.items()}
    caches = {t.dtype for spec in specs.values() for t in spec.inputs.values() if t.mutated}
    return family.assemble(folder, functions, getattr(torch, min(caches, default="float32")))


def _build_graph(
    job: Job[Options], name: str, taken: Mapping[str, torch.dtype]
) -> tuple[Layout, Weights]:
    """Compile one graph of a model of its own; tell the weights it uses, and what reads them."""
    options = job.options
    graph, model, weights = _prepared(options, job.checkpoint, job.family, name)
    names = parameter_names(graph, model)
    # A graph gives each output in the type in which the next graph takes it.
    given = [taken.get(output) for output in graph.outputs]
    path = job.folder / f"{name}.pt2"

    def compiled() -> None:
        job.progress(f"compiling {name}", None)
        _make_room(graph)
        module = Converted(graph.module, given)
        inner = {f"module.{own}": stored for own, stored in names.items()}
        compile_graph(
            graph,
            module,
            inner,
            path,
            march=options.march,
            extensions=options.extensions,
            threads=options.threads,
        )

    parts = {
        "graph": graph.name,
        "architecture": job.family.architecture(job.checkpoint.config),
        "options": options.model_dump(mode="json"),
        "weights": {n: f"{t.dtype} {t.shape}" for n, t in graph.module.named_parameters()},
        "given": [str(dtype) for dtype in given],
        "versions": installed_versions(),
        "compiler": compiler_version(),
        "machine": [describe().cpu, sorted(describe().features)],
        "threads": torch.get_num_threads(),  # Inductor parallelizes by them
    }
    obtain(path, f"aoti {path.name} of {job.size}", parts, compiled, fresh=job.fresh)
    constants = read_spec(path).constants.values()
    return {c.name: (getattr(torch, c.dtype), c.shape) for c in constants}, weights


def _prepared(
    options: Options, checkpoint: Checkpoint, family: Family, name: str
) -> tuple[Graph, nn.Module, Weights]:
    """One graph of a model of its own, in the types in which its weights are stored."""
    model = family.skeleton(checkpoint.config, options.precision(name))
    plan = plan_linears(model, exclude=_kept(options, family))
    if not options.quantized(name):
        plan = Plan()
    weights = Weights(checkpoint, plan, family.TIED)
    keep_narrow(model, weights)
    activations = Activations() if options.onednn else None
    for module in plan.modules:
        linear = model.get_submodule(module)
        assert isinstance(linear, nn.Linear)
        new = Int8Linear(linear, activations, widen=not options.vnni)
        replace_module(model, module, new)
    graph = next(g for g in family.graphs(model, cache="static") if g.name == name)
    return graph, model, weights


def _make_room(graph: Graph) -> None:
    """Give a graph's parameters memory that is never touched: the compiler asks for no values.

    Tied parameters stay one.
    """
    made: dict[int, nn.Parameter] = {}
    for name, absent in list(graph.module.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        room = torch.empty(absent.shape, dtype=absent.dtype)
        made.setdefault(id(absent), nn.Parameter(room, requires_grad=False))
        setattr(graph.module.get_submodule(owner), leaf, made[id(absent)])


def _graphs(job: Job[Options], dtype: torch.dtype) -> list[Graph]:
    return job.family.graphs(job.family.skeleton(job.checkpoint.config, dtype), cache="static")


def _kept(options: Options, family: Family) -> tuple[str, ...]:
    return (*options.exclude, *(() if options.include_lm_head else (family.HEAD,)))


def _features(options: Options) -> frozenset[str]:
    """Everything that the packages may ask of a CPU."""
    return level_features(options.march) | set(options.extensions)


def _this_level() -> Level:
    isa = describe().isa
    for level in get_args(Level):
        if isa == level:
            return level  # type: ignore[no-any-return]
    msg = f"aoti compiles for {' or '.join(get_args(Level))}, and this machine is {isa}"
    raise MachineError(msg)


def _minor(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:2])
