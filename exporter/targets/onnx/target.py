"""onnx-int8: dynamic int8 ONNX graphs for onnxruntime, optimum and transformers.js.

Graphs are traced without weights, from a model whose modules are int8 already, so there is no float
graph to quantize afterwards; weights are then streamed to external data, once each. Only products
with a constant weight are int8, not those of attention. If all layers of a graph are alike, one is
traced and repeated. Graphs for our own sessions use the external data of those for other loaders
(`weights_from`).

Only building imports onnx: loading needs onnxruntime alone.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest, Requirements
from exporter.artifact.store import read_verified
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import RecipeError
from exporter.families.base import Family
from exporter.families.graph import Graph, parameter_names
from exporter.quantization.modules import OwnLayout, keep_16bit_storage, stored
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.static_int8 import Scheme as StaticInt8
from exporter.quantization.weights import Weights
from exporter.runtime.onnx import graph_name
from exporter.runtime.onnx.external_data import own_graphs
from exporter.runtime.onnx.session import call_limit_s
from exporter.system.accelerators import Device
from exporter.system.build_cache import get_or_build
from exporter.system.hardware import describe, installed_versions
from exporter.targets.base import Job, Records
from exporter.targets.onnx import OPSET, products_saturate
from exporter.targets.onnx.layouts import CONFIG, Named, config_text, named
from exporter.targets.onnx.options import _UNSIGNED_PRESETS, Options
from exporter.targets.onnx.ort_config import ORT_CONFIG, ORT_CONFIG_BYTES, ort_config
from exporter.targets.onnx.session import open_session

SCHEMES = frozenset({"float", "dynamic-int8", "static-int8", "weight-int4", "weight-int8"})
_log = logging.getLogger(__name__)
# Approximate bytes of a graph's nodes, per linear module, and per input with its nodes.
_LINEAR_BYTES, _INPUT_BYTES = 1_420, 1_500
# The same for a graph with `weights_from`, per input and output.
_SHARING_BYTES = 1_300
_TOKENIZER = "tokenizer.json"


def check(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> None:
    """Refuse options that the checkpoint does not support; warn if this CPU loses precision.

    transformers.js reads only `tokenizer.json` of a tokenizer's files.
    """
    files = {*checkpoint.companions, *_tokenizer_files(options, checkpoint, family)}
    if options.layout == "transformers.js" and _TOKENIZER not in files:
        msg = (
            f"layout: transformers.js reads {_TOKENIZER}, which the checkpoint has not: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
        )
        raise RecipeError(msg)
    signed = options.preset not in _UNSIGNED_PRESETS
    saturates = signed and any(map(_has_8_bits, plan.quantized.values()))
    if saturates and products_saturate(describe()):
        _log.warning(
            "this CPU has no VNNI, so 8-bit products may saturate here and words may be lost: to "
            "run on it, build with `preset: avx2` or "
            "`quantization: {default: {scheme: dynamic-int8, bits: 7}}`"
        )


def layout(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> dict[str, int]:
    """Estimate the files' sizes in bytes: of weights exact, of graphs approximate."""
    files = {ORT_CONFIG: ORT_CONFIG_BYTES}
    graphs = family.graphs(model, cache="dynamic")
    names = _named(options, plan, model, graphs)
    own = _own_files(options, checkpoint, family, graphs, names)
    files |= {name: len(content) for name, content in own.items()}
    for planned in graphs:
        path = str(names[planned.name].path)
        graph = _prepared(options, plan, checkpoint, family, planned).graph
        if graph.weights_from is not None:
            values = len(graph.inputs) + len(graph.outputs)
            files[path] = _SHARING_BYTES * values
            continue
        weights = dict(
            graph.module.named_parameters()
        )  # shared weights count once, as they are written
        files[f"{path}_data"] = sum(weight.nbytes for weight in weights.values())
        modules = graph.module.modules()
        linears = sum(isinstance(each, OwnLayout) for each in modules)
        files[path] = _LINEAR_BYTES * linears + _INPUT_BYTES * len(graph.inputs)
    return files


def num_trials(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    """Return 0: the build chooses nothing."""
    return 0


def device_memory_bytes(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    """Return 0: it runs on CPUs alone."""
    return 0


def build(job: Job[Options]) -> BuildResult:
    """Write one ONNX file per graph, each weight once beside one of them, and `ort_config.json`."""
    skeleton = job.family.skeleton(job.checkpoint.config)
    graphs = job.family.graphs(skeleton, cache="dynamic")
    names = _named(job.options, job.plan, skeleton, graphs)
    for planned in graphs:
        prepared = _prepared(job.options, job.plan, job.checkpoint, job.family, planned)
        _build_graph(job, prepared, names)
    (job.folder / ORT_CONFIG).write_text(ort_config(job.options, job.plan))
    own = _own_files(job.options, job.checkpoint, job.family, graphs, names)
    for name, content in own.items():
        (job.folder / name).write_bytes(content)
    return BuildResult(
        needs=Requirements(packages=("onnxruntime",), device=job.device),
        options=job.options.model_dump(mode="json"),
        quantization=job.plan.as_data(),
    )


@dataclass(frozen=True)
class _Prepared:
    """A graph ready to trace, the model it is cut from, and the reader of their weights."""

    graph: Graph
    model: nn.Module
    weights: Weights

    def read(self, name: str) -> Tensor:
        """Return the model's tensor `name` as the graph stores it."""
        return stored(self.model, name, self.weights.read(name))


def _prepared(
    options: Options,
    plan: QuantizationPlan,
    checkpoint: Checkpoint,
    family: Family,
    planned: Graph,
) -> _Prepared:
    """Cut one graph from a new model, with weights in the types in which they are stored."""
    from exporter.targets.onnx.modules import replace_modules

    model = family.skeleton(checkpoint.config)
    weights = Weights(checkpoint, plan, family.TIED)
    keep_16bit_storage(model, weights)
    shared = shared_tables(family.TIED, checkpoint.tensors)
    replace_modules(model, plan, shared, _int8_type(options))
    graph = next(g for g in family.graphs(model, cache="dynamic") if g.name == planned.name)
    return _Prepared(graph, model, weights)


def _build_graph(job: Job[Options], prepared: _Prepared, files: Mapping[str, Named]) -> None:
    """Trace a graph, or take it from the cache, and stream its weights in."""
    from exporter.targets.onnx import external_data
    from exporter.targets.onnx.trace import _trace

    graph = prepared.graph
    names = parameter_names(graph, prepared.model)
    modules = {name.rpartition(".")[0] for name in names.values()}

    def trace() -> None:
        job.progress(f"tracing {graph.name}", None)
        external_data.save(_trace(graph), path, names)

    def read(name: str) -> Tensor:
        return prepared.read(names[name])

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
    }
    what = f"onnx-int8 {path.name} of {job.size}"
    makers = (sys.modules[__name__], job.family, *job.plan.quantized.values())
    get_or_build(path, what, parts, trace, makers=makers, fresh=job.fresh)
    if graph.weights_from is None:
        external_data.fill(path, read, job.progress)
    else:
        external_data.share_external_data(path, job.folder / files[graph.weights_from].path)


def records(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    choices: Mapping[str, AutotuneResult],
) -> Records:
    """Return the plan, `ort_config.json`, and the files that are a layout's own."""
    graphs = family.graphs(model, cache="dynamic")
    names = _named(options, plan, model, graphs)
    own = _own_files(options, checkpoint, family, graphs, names)
    return Records(plan, {ORT_CONFIG: ort_config(options, plan).encode(), **own})


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
    """Open a session per graph of ours and join them into a model that generates."""
    limit_s = call_limit_s(manifest.size_bytes)
    functions = {
        graph_name(path): open_session(path, content, threads, device, limit_s)
        for path, content in own_graphs(folder, manifest.files, read_verified).items()
    }
    return family.assemble(folder, functions)


def _named(
    options: Options, plan: QuantizationPlan, model: nn.Module, graphs: Sequence[Graph]
) -> dict[str, Named]:
    """Return every graph's file; the name of one with `weights_from` follows the other's types."""
    owners = {graph.name: graph.weights_from or graph.name for graph in graphs}
    int8 = {graph.name: _has_int8(plan, model, graph) for graph in graphs}
    return {name: named(options.layout, name, int8=int8[owners[name]]) for name in owners}


def _has_int8(plan: QuantizationPlan, model: nn.Module, graph: Graph) -> bool:
    names = parameter_names(graph, model).values()
    return any(name.rpartition(".")[0] in plan.quantized for name in names)


def _own_files(
    options: Options,
    checkpoint: Checkpoint,
    family: Family,
    graphs: Sequence[Graph],
    names: Mapping[str, Named],
) -> dict[str, bytes]:
    """Return those companions of which the layout needs others than the checkpoint's."""
    if options.layout == "optimum":
        return {}
    owners = [names[graph.name] for graph in graphs if graph.weights_from is None]
    config = config_text(json.loads(checkpoint.companion(CONFIG)), owners)
    return {CONFIG: config.encode(), **_tokenizer_files(options, checkpoint, family)}


def _tokenizer_files(options: Options, checkpoint: Checkpoint, family: Family) -> dict[str, bytes]:
    if options.layout == "optimum":
        return {}
    with checkpoint.gathered() as companions:
        return family.tokenizer_files(companions)


def _has_8_bits(scheme: QuantizationScheme) -> bool:
    return isinstance(scheme, DynamicInt8 | StaticInt8) and scheme.bits == 8


def _int8_type(options: Options) -> torch.dtype:
    return torch.uint8 if options.preset in _UNSIGNED_PRESETS else torch.int8
