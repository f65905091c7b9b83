"""One graph of a model, from its form to a package: replaced modules, tracing, compiling."""

import sys
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.families.graph import Graph, parameter_names
from exporter.formats.tensor_io import Layout
from exporter.quantization.modules import keep_16bit_storage, replace_module
from exporter.quantization.plan import Plan, plan_linears
from exporter.quantization.weights import Weights
from exporter.system.build_cache import get_or_build
from exporter.system.hardware import describe, installed_versions
from exporter.targets.aoti.compiler import compile_graph, compiler_version
from exporter.targets.aoti.linear import Activations, Converted, Int8Linear
from exporter.targets.aoti.options import Options
from exporter.targets.aoti.package import read_spec
from exporter.targets.base import Job


def graphs(job: Job[Options], dtype: torch.dtype = torch.float32) -> list[Graph]:
    """The family's static cut of the job's model, computing in one type."""
    return job.family.graphs(job.family.skeleton(job.checkpoint.config, dtype), cache="static")


def taken(job: Job[Options]) -> dict[str, torch.dtype]:
    """The type in which each input of each graph is taken, by the input's name."""
    names = [graph.name for graph in graphs(job)]
    cuts = {dtype: graphs(job, dtype) for dtype in {job.options.precision(n) for n in names}}
    return {
        name: tensor.dtype
        for index, graph in enumerate(names)
        for name, tensor in cuts[job.options.precision(graph)][index].inputs.items()
    }


def build_graph(
    job: Job[Options], name: str, taken: Mapping[str, torch.dtype]
) -> tuple[Layout, Weights]:
    """Compile one graph of a model of its own; tell the weights it uses, and what reads them."""
    options = job.options
    graph, model, weights = prepared(options, job.checkpoint, job.family, name)
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
        "options": {**options.model_dump(mode="json"), **asdict(options.form(name))},
        "weights": {n: f"{t.dtype} {t.shape}" for n, t in graph.module.named_parameters()},
        "given": [str(dtype) for dtype in given],
        "versions": installed_versions(),
        "compiler": compiler_version(),
        "machine": [describe().cpu, sorted(describe().features)],
        "threads": torch.get_num_threads(),  # Inductor parallelizes by them
    }
    what = f"aoti {path.name} of {job.size}"
    makers = (sys.modules[__name__], job.family)
    get_or_build(path, what, parts, compiled, makers=makers, fresh=job.fresh)
    constants = read_spec(path).constants.values()
    return {c.name: (getattr(torch, c.dtype), c.shape) for c in constants}, weights


def prepared(
    options: Options, checkpoint: Checkpoint, family: Family, name: str
) -> tuple[Graph, nn.Module, Weights]:
    """One graph of a model of its own, in the types in which its weights are stored."""
    form = options.form(name)
    model = family.skeleton(checkpoint.config, options.precision(name))
    plan = plan_linears(model, exclude=kept(options, family)) if form.int8 else Plan()
    weights = Weights(checkpoint, plan, family.TIED)
    keep_16bit_storage(model, weights)
    activations = Activations() if form.onednn else None
    for module in plan.modules:
        linear = model.get_submodule(module)
        assert isinstance(linear, nn.Linear)
        new = Int8Linear(linear, activations, widen=not options.vnni)
        replace_module(model, module, new)
    graph = next(g for g in family.graphs(model, cache="static") if g.name == name)
    return graph, model, weights


def kept(options: Options, family: Family) -> tuple[str, ...]:
    """Patterns of the linear modules that stay in float."""
    return (*options.exclude, *(() if options.include_lm_head else (family.HEAD,)))


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
