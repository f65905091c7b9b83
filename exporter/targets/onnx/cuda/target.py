"""onnx-fp16: ONNX graphs in float16 for onnxruntime's CUDA provider, and for optimum on it.

Graphs are traced in float16, not converted to it. `encoder_model` and `decoder_model_merged` are
those that optimum loads; `cross_cache`, `step` and `gather` are for our own sessions, which a CUDA
graph captures, and use the others' external data. Weights may be of 4 or 8 bits with a scale for
each group of a row.

Only building imports onnx, and needs no card: loading needs one, and onnxruntime alone.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Gpu, Manifest, Requirements
from exporter.artifact.store import read_verified
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import RecipeError
from exporter.families.base import Family
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.float import Scheme as Float
from exporter.runtime.onnx import cuda, graph_name
from exporter.runtime.onnx.external_data import own_graphs
from exporter.runtime.onnx.session import Providers, call_limit_s, open_graph
from exporter.system.accelerators import Device
from exporter.targets.base import Job, Records
from exporter.targets.onnx.cuda import CAPABILITY, CUDA
from exporter.targets.onnx.cuda.options import Options
from exporter.targets.onnx.graphs import builder
from exporter.targets.onnx.graphs.builder import Form
from exporter.targets.onnx.layouts import Named, named

SCHEMES = frozenset({"float", "weight-int4", "weight-int8"})
KIND = "onnx-fp16"
_STEP, _GATHER = "step", "gather"
# Of a loaded artifact's memory on the card: CUDA's context with the kernels of onnxruntime and
# cuBLAS, and the activations of one window in the encoder for each of its positions and channels.
_CONTEXT_BYTES, _ACTIVATIONS = 600_000_000, 24
_ROWS = 5  # of a beam search, whose caches are there twice


def check(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> None:
    """Refuse modules in another type than float16, and models without a decoder on buffers.

    Raises:
        RecipeError: This kind has no such artifact.
    """
    kinds = {s.dtype for s in plan.modules.values() if isinstance(s, Float)} - {None, "float16"}
    if kinds:
        others = " and ".join(sorted(map(str, kinds)))
        msg = f"{KIND} computes in float16: leave out `dtype: {others}`"
        raise RecipeError(msg)
    names = {graph.name for graph in family.graphs(model, "buffers")}
    if not {_STEP, _GATHER} <= names:
        msg = f"{KIND} is for Whisper so far: for a CTC model take onnx-int8 or aoti"
        raise RecipeError(msg)


def layout(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> dict[str, int]:
    """Estimate the files' sizes in bytes: of weights exact, of graphs approximate."""
    files = _files(form(), checkpoint, family)
    return builder.sizes(form(), plan, checkpoint, family, files)


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
    """Estimate the memory on the card that a loaded artifact takes, for a beam search of 5.

    That is: the weights, which the sessions do not share; the head in float32; the caches of the
    tokens, twice, and those of two windows; activations; and the context.
    """
    config = checkpoint.config
    width, layers = int(config["d_model"]), int(config["decoder_layers"])
    source, positions = int(config["max_source_positions"]), int(config["max_target_positions"])
    files = layout(options, plan, model, checkpoint, family)
    weights = sum(size for path, size in files.items() if path.endswith("_data"))
    head = 4 * width * int(config["vocab_size"])
    token = 2 * 2 * layers * width
    caches = token * (2 * _ROWS * positions + 2 * source)
    heads = int(config["encoder_attention_heads"])
    activations = 2 * source * (_ACTIVATIONS * width + heads * source)
    return weights + head + caches + activations + _CONTEXT_BYTES


def records(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    choices: Mapping[str, AutotuneResult],
) -> Records:
    """Return the plan; this kind writes no small files."""
    return Records(plan)


def build(job: Job[Options]) -> BuildResult:
    """Write one ONNX file per graph, and each weight once beside one of them."""
    write_graphs(job, form())
    skeleton = job.family.skeleton(job.checkpoint.config)
    of = job.options, job.plan, skeleton, job.checkpoint, job.family
    memory = device_memory_bytes(*of)
    gpu = Gpu(capability=CAPABILITY, match="minimum", cuda=CUDA, memory_bytes=memory)
    return BuildResult(
        needs=Requirements(packages=("onnxruntime",), device=job.device, gpu=gpu),
        options=job.options.model_dump(mode="json"),
        quantization=job.plan.as_data(),
    )


def write_graphs(job: Job[Any], wanted: Form) -> None:
    """Write the graphs of a form."""
    files = _files(wanted, job.checkpoint, job.family)
    for name in files:
        builder.build_graph(job, wanted, name, files, (sys.modules[__name__],))


def form(dtype: torch.dtype = torch.float16) -> Form:
    """Return how this kind stores a model: in float16, or in float32 for comparisons on a CPU."""
    from exporter.targets.onnx.cuda.modules import NODES, replace_modules
    from exporter.targets.onnx.cuda.passes import join_norms, plain_casts

    passes = plain_casts, join_norms
    return Form(KIND, "buffers", replace_modules, dtype, NODES, passes)


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cuda"
) -> Any:
    """Open our graphs and join them into a model that generates, on tensors of the host.

    Args:
        folder: The artifact, whose bytes are verified.
        manifest: Its manifest.
        family: The family named by the manifest.
        threads: Number of CPU threads that a call may use.
        device: "cuda"; on "cpu" the same graphs run slowly, for tests.
    """
    from exporter.targets.onnx.cuda.session import HostSession, StepSession

    providers: Providers = ["CPUExecutionProvider"]
    if device == "cuda":
        cuda.require_provider()
        providers = [cuda.provider(captured=False)]
    functions = {}
    for path, content in own_graphs(folder, manifest.files, read_verified).items():
        name, limit_s = graph_name(path), call_limit_s(manifest.size_bytes)
        graph = open_graph(path, content, threads, providers=providers, limit_s=limit_s)
        functions[name] = (StepSession if name == _STEP else HostSession)(graph)
    return family.assemble(folder, functions)


def _files(wanted: Form, checkpoint: Checkpoint, family: Family) -> dict[str, Named]:
    """Return the file of each graph, those first whose weights others use."""
    graphs = wanted.graphs(checkpoint, family)
    ordered = sorted(graphs, key=lambda graph: graph.weights_from is not None)
    return {graph.name: named("optimum", graph.name, int8=False) for graph in ordered}
