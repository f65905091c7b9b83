"""onnx-int8: dynamic int8 ONNX graphs for onnxruntime, optimum and transformers.js.

Only products with a constant weight are int8, not those of attention.

Only building imports onnx: loading needs onnxruntime alone.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest, Requirements
from exporter.artifact.store import read_verified
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import RecipeError
from exporter.families.base import Family
from exporter.families.graph import Graph, parameter_names
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.static_int8 import Scheme as StaticInt8
from exporter.runtime.onnx import graph_name
from exporter.runtime.onnx.external_data import own_graphs
from exporter.runtime.onnx.session import call_limit_s
from exporter.system.accelerators import Device
from exporter.system.hardware import describe
from exporter.targets.base import Job, Records
from exporter.targets.onnx import products_saturate
from exporter.targets.onnx.graphs import builder
from exporter.targets.onnx.graphs.builder import Form
from exporter.targets.onnx.layouts import CONFIG, Named, config_text, named
from exporter.targets.onnx.options import _UNSIGNED_PRESETS, Options
from exporter.targets.onnx.ort_config import ORT_CONFIG, ORT_CONFIG_BYTES, ort_config
from exporter.targets.onnx.session import open_session

SCHEMES = frozenset({"float", "dynamic-int8", "static-int8", "weight-int4", "weight-int8"})
_log = logging.getLogger(__name__)
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
    files |= builder.sizes(_form(options), plan, checkpoint, family, names)
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
    for graph in graphs:
        makers = (sys.modules[__name__],)
        builder.build_graph(job, _form(job.options), graph.name, names, makers)
    (job.folder / ORT_CONFIG).write_text(ort_config(job.options, job.plan))
    own = _own_files(job.options, job.checkpoint, job.family, graphs, names)
    for name, content in own.items():
        (job.folder / name).write_bytes(content)
    return BuildResult(
        needs=Requirements(packages=("onnxruntime",), device=job.device),
        options=job.options.model_dump(mode="json"),
        quantization=job.plan.as_data(),
    )


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


def _form(options: Options) -> Form:
    from exporter.targets.onnx.modules import replace_modules

    def replace(model: nn.Module, plan: QuantizationPlan, shared: Mapping[str, str]) -> None:
        replace_modules(model, plan, shared, _int8_type(options))

    return Form("onnx-int8", "dynamic", replace)


def _int8_type(options: Options) -> torch.dtype:
    return torch.uint8 if options.preset in _UNSIGNED_PRESETS else torch.int8
