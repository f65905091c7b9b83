"""Build the graphs of an ONNX artifact: cut a model, trace each graph, and stream its weights in.

Graphs are traced without weights, from a model whose modules are those of the artifact already, so
there is no float graph to convert afterwards. If all layers of a graph are alike, one is traced and
repeated. Graphs for our own sessions use the external data of those for other loaders
(`weights_from`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Cache, Family
from exporter.families.graph import Graph, parameter_names
from exporter.quantization.modules import OwnLayout, keep_16bit_storage, stored
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.weights import Weights
from exporter.system.build_cache import get_or_build
from exporter.system.hardware import installed_versions
from exporter.targets.base import Job
from exporter.targets.onnx import OPSET
from exporter.targets.onnx.layouts import Named

# Approximate bytes of a graph's nodes, per linear module, and per input with its nodes.
_LINEAR_BYTES, _INPUT_BYTES = 1_420, 1_500
# The same for a graph with `weights_from`, per input and output.
_SHARING_BYTES = 1_300


@dataclass(frozen=True)
class Form:
    """How a kind of target cuts, stores and computes a model.

    Attributes:
        kind: The kind's name.
        cache: The cut of the family.
        replace: Replaces the modules of a skeleton, by the plan and the tables that heads share.
        dtype: The type in which graphs compute.
        nodes: Functions that make the nodes of operators in place of the usual ones.
        passes: Passes on each traced graph, after the usual ones.
    """

    kind: str
    cache: Cache
    replace: Callable[[nn.Module, QuantizationPlan, Mapping[str, str]], None]
    dtype: torch.dtype = torch.float32
    nodes: Mapping[Any, Callable[..., Any]] = field(default_factory=dict)
    passes: Sequence[Callable[[Any], None]] = ()

    def graphs(self, checkpoint: Checkpoint, family: Family) -> list[Graph]:
        """Cut a new model, whose modules are the original's."""
        return family.graphs(family.skeleton(checkpoint.config, self.dtype), self.cache)


@dataclass(frozen=True)
class Prepared:
    """A graph ready to trace, the model it is cut from, and the reader of their weights."""

    graph: Graph
    model: nn.Module
    weights: Weights

    def read(self, name: str) -> Tensor:
        """Return the model's tensor `name` as the graph stores it."""
        return stored(self.model, name, self.weights.read(name))


def prepare(
    form: Form, plan: QuantizationPlan, checkpoint: Checkpoint, family: Family, name: str
) -> Prepared:
    """Cut one graph from a new model, with weights in the types in which they are stored."""
    model = family.skeleton(checkpoint.config, form.dtype)
    weights = Weights(checkpoint, plan, family.TIED)
    keep_16bit_storage(model, weights)
    form.replace(model, plan, shared_tables(family.TIED, checkpoint.tensors))
    graph = next(each for each in family.graphs(model, form.cache) if each.name == name)
    return Prepared(graph, model, weights)


def sizes(
    form: Form,
    plan: QuantizationPlan,
    checkpoint: Checkpoint,
    family: Family,
    files: Mapping[str, Named],
) -> dict[str, int]:
    """Estimate the sizes in bytes of all graphs and their data: of weights exact, else roughly.

    Args:
        form: How the model is stored.
        plan: The scheme of each module.
        checkpoint: The checkpoint; its weights are not read.
        family: Its family.
        files: The file of each graph, by the graph's name.
    """
    found: dict[str, int] = {}
    for name, named in files.items():
        path, graph = str(named.path), prepare(form, plan, checkpoint, family, name).graph
        weights = dict(
            graph.module.named_parameters()
        )  # shared weights count once, as they are written
        if graph.weights_from is not None or not weights:
            found[path] = _SHARING_BYTES * (len(graph.inputs) + len(graph.outputs))
            continue
        found[f"{path}_data"] = sum(weight.nbytes for weight in weights.values())
        linears = sum(isinstance(each, OwnLayout) for each in graph.module.modules())
        found[path] = _LINEAR_BYTES * linears + _INPUT_BYTES * len(graph.inputs)
    return found


def build_graph(
    job: Job[Any], form: Form, name: str, files: Mapping[str, Named], makers: Sequence[Any]
) -> None:
    """Trace a graph, or take it from the cache, and stream its weights in.

    Args:
        job: The artifact to build.
        form: How the model is stored.
        name: The graph's name; one whose weights it uses has to be built already.
        files: The file of each graph, by the graph's name.
        makers: The modules whose sources make the graph, besides the family and the schemes.
    """
    from exporter.targets.onnx.graphs import external_data
    from exporter.targets.onnx.graphs.trace import _trace

    prepared = prepare(form, job.plan, job.checkpoint, job.family, name)
    graph = prepared.graph
    names = parameter_names(graph, prepared.model)
    modules = {own.rpartition(".")[0] for own in names.values()}

    def trace() -> None:
        job.progress(f"tracing {graph.name}", None)
        model = _trace(graph, form.nodes)
        for each in form.passes:
            each(model)
        external_data.save(model, path, names)

    def read(own: str) -> Tensor:
        return prepared.read(names[own])

    path = job.folder / files[graph.name].path
    path.parent.mkdir(exist_ok=True)
    parts = {
        "graph": graph.name,
        "file": path.name,  # the graph contains the name of its external data
        "opset": OPSET,
        "architecture": job.family.architecture(job.checkpoint.config),
        "weights": {n: f"{t.dtype} {t.shape}" for n, t in graph.module.named_parameters()},
        "schemes": {n: str(s) for n, s in job.plan.quantized.items() if n in modules},
        "versions": installed_versions(),
        **_computing(form),
    }
    what = f"{form.kind} {path.name} of {job.size}"
    sources = (*makers, job.family, *job.plan.quantized.values())
    get_or_build(path, what, parts, trace, makers=sources, fresh=job.fresh)
    if graph.weights_from is not None:
        external_data.share_external_data(path, _beside(job, files, graph.weights_from))
    elif names:
        external_data.fill(path, read, job.progress)


def _beside(job: Job[Any], files: Mapping[str, Named], name: str) -> Path:
    return job.folder / files[name].path


def _computing(form: Form) -> dict[str, str]:
    """Return what a graph without weights does not tell of the form."""
    if (form.cache, form.dtype) == ("dynamic", torch.float32):
        return {}
    return {"cache": form.cache, "computes": str(form.dtype)}
