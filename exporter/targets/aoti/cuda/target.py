"""What `exporter.targets.aoti.target` does where a recipe says `device: cuda`."""

from dataclasses import replace

import torch

from exporter.artifact.manifest import BuildResult, BuiltOn, Gpu, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families import FAMILIES, family_name
from exporter.families.base import Family
from exporter.families.graph import Graph, parameter_names
from exporter.formats.tensor_io import Layout, safetensors_bytes
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.schemes.float import Scheme as Float
from exporter.system.accelerators import Card
from exporter.system.hardware import level_features, require_features
from exporter.targets.aoti.cuda.builder import (
    Cut,
    Recipe,
    build_parts,
    cut,
    layers_of,
    write_weights,
)
from exporter.targets.aoti.cuda.compiler import HOST_LEVEL
from exporter.targets.aoti.cuda.load import WEIGHTS
from exporter.targets.aoti.cuda.modules import check_schemes
from exporter.targets.aoti.cuda.toolchain import require_toolchain
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.options import Options
from exporter.targets.base import Job

_PART_BYTES = 130_000  # of a package, estimated: code of the CPU, and a few kernels
_ENCODED = 16  # windows that are encoded at a time
_STATES = 8  # tensors of an encoder layer's states that are in memory at once
_FIRST_EXACT = 9  # capabilities from here on have code of their own: see `Gpu.match`


def check(options: Options, plan: QuantizationPlan) -> None:
    """Refuse schemes that it lacks, and a machine that cannot compile for its card.

    Raises:
        RecipeError: A module has another scheme.
        MachineError: The card, or something to compile with, is missing.
    """
    check_schemes(plan)
    require_features(level_features(HOST_LEVEL), "aoti with `device: cuda`")
    require_toolchain()


def layout(options: Options, plan: QuantizationPlan, checkpoint: Checkpoint) -> dict[str, int]:
    """Estimate the files' sizes in bytes: of weights nearly exact, of code approximate."""
    whole = cut(recipe_of(options, plan, checkpoint))
    files = dict.fromkeys((f"{name}.pt2" for name in whole.parts), _PART_BYTES)
    return {**files, WEIGHTS: safetensors_bytes(_weights(whole))}


def device_memory_bytes(options: Options, plan: QuantizationPlan, checkpoint: Checkpoint) -> int:
    """Estimate the memory of a card: weights, caches of the most rows, states of the encoder."""
    whole = cut(recipe_of(options, plan, checkpoint))
    weights = sum(_bytes(*tensor) for tensor in _weights(whole).values())
    rows = max(options.rows)
    step = whole.parts.get(f"step_{rows}_layer")
    states = sum(
        _STATES * _with_rows(graph, "hidden", _ENCODED)
        for name, (graph, _) in whole.parts.items()
        if name == "encoder_layer"
    )
    if step is None:
        return weights + states
    layer, count = step
    caches = sum(_with_rows(layer, name, rows) for name in layer.inputs if ".0." in name)
    return weights + count * caches + states


def build(job: Job[Options]) -> BuildResult:
    """Compile all parts, then write the weights of all layers once."""
    check_schemes(job.plan)
    toolchain = require_toolchain()
    plain = recipe_of(job.options, job.plan, job.checkpoint)
    recipe = replace(plain, identity=toolchain.as_parts(), home=toolchain.home)
    tensors, whole = build_parts(recipe, job.folder, job.progress, fresh=job.fresh)
    write_weights(job.folder, tensors, whole, job.progress)
    memory = device_memory_bytes(job.options, job.plan, job.checkpoint)
    return BuildResult(
        needs=Requirements(
            cpu_features=tuple(sorted(level_features(HOST_LEVEL))),
            packages=("torch",),
            device="cuda",
            gpu=gpu_needs(toolchain.card, toolchain.cuda, memory),
        ),
        options=job.options.model_dump(mode="json"),
        quantization=kept_plan(job.options, job.plan, job.checkpoint).as_data(),
        built_on=BuiltOn(
            gpu=toolchain.card.name,
            multiprocessors=toolchain.card.multiprocessors,
            torch=torch.__version__,
            triton=toolchain.triton,
        ),
    )


def gpu_needs(card: Card, cuda: str, memory_bytes: int) -> Gpu:
    """Return what packages that were compiled for a card need of one.

    From Hopper on, Triton compiles for exactly one capability ("sm_90a"); before, code runs on
    later ones of its major number too.
    """
    return Gpu(
        capability=".".join(map(str, card.capability)),
        match="exact" if card.capability[0] >= _FIRST_EXACT else "major",
        cuda=cuda,
        memory_bytes=memory_bytes,
    )


def kept_plan(options: Options, plan: QuantizationPlan, checkpoint: Checkpoint) -> QuantizationPlan:
    """Return the plan, with modules left float that no graph has."""
    whole = cut(recipe_of(options, plan, checkpoint))
    used = {name.rpartition(".")[0] for name in _weights(whole)}
    for owner, _, member in (name.rpartition(".") for name in [*used]):
        joined = getattr(whole.model.get_submodule(f"{owner}.{member}"), "joined", ())
        used |= {f"{owner}.{each}" for each in joined}
    shared = shared_tables(_family(checkpoint).TIED, checkpoint.tensors)
    left = [name for name in plan.quantized if shared.get(name, name) not in used]
    return plan.with_scheme(left, Float())


def recipe_of(
    options: Options,
    plan: QuantizationPlan,
    checkpoint: Checkpoint,
) -> Recipe:
    """Return what decides the parts of a model and their code."""
    return Recipe(
        family=family_name(checkpoint.config),
        checkpoint=checkpoint,
        plan=plan,
        dtype=getattr(torch, str(options.dtype)),
        rows=options.rows,
        device=SUPPORT["cuda"].torch_device,
    )


def _weights(whole: Cut) -> Layout:
    """Return type and shape of the weights of all parts and layers."""
    tensors: Layout = {}
    for graph, count in whole.parts.values():
        names = parameter_names(graph, whole.model)
        for own, tensor in graph.module.named_parameters():
            kind = tensor.dtype, tuple(tensor.shape)
            tensors |= dict.fromkeys(layers_of(names[own], count), kind)
    return tensors


def _with_rows(graph: Graph, name: str, rows: int) -> int:
    """Return the bytes of an input with so many rows."""
    tensor = graph.inputs[name]
    return _bytes(tensor.dtype, (rows, *tensor.shape[1:]))


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * torch.Size(shape).numel()


def _family(checkpoint: Checkpoint) -> Family:
    return FAMILIES[family_name(checkpoint.config)]
