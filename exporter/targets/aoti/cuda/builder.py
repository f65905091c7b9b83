"""Build the parts of a model's graphs for a GPU, side by side, or take them from the cache."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from exporter.families.graph import Graph, parameter_names
from exporter.families.joined import read_joined
from exporter.families.layered import LayeredGraph, in_layer
from exporter.formats.tensor_io import Layout, write_safetensors
from exporter.quantization.modules import keep_16bit_storage, stored
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.weights import Weights
from exporter.system.build_cache import get_or_build
from exporter.system.hardware import describe, installed_versions
from exporter.system.progress import Progress
from exporter.targets.aoti.cuda.compiler import compile_part, cuda_settings
from exporter.targets.aoti.cuda.load import WEIGHTS
from exporter.targets.aoti.cuda.modules import replace_modules
from exporter.targets.aoti.package import read_spec

_MOST_WORKERS = 8  # each has torch, and on a GPU a context, in memory


@dataclass(frozen=True)
class Recipe:
    """What decides the parts of a model and their code.

    Attributes:
        family: The name of the model's family.
        checkpoint: The checkpoint; values are not read.
        plan: The scheme of each module.
        dtype: The type in which the model computes.
        rows: The numbers of rows that steps are compiled for.
        device: The device to compile for.
        identity: What identifies the device and its compilers, for the cache.
        home: The folder of the toolkit, for a GPU.
    """

    family: str
    checkpoint: Checkpoint
    plan: QuantizationPlan
    dtype: torch.dtype
    rows: tuple[int, ...]
    device: torch.device
    identity: Mapping[str, Any] = field(default_factory=dict)
    home: Path | None = None

    @property
    def narrow(self) -> bool:
        """Whether keys and values of the audio are int8: their projections have int8 weights."""
        return FAMILIES[self.family].forcing.keeps_int8(self.plan.quantized)


@dataclass(frozen=True)
class Cut:
    """A model cut into its graphs.

    Attributes:
        model: The skeleton, with replaced and joined modules.
        graphs: Its graphs by name.
        weights: The reader of its weights.
    """

    model: nn.Module
    graphs: Mapping[str, Graph | LayeredGraph]
    weights: Weights

    @property
    def parts(self) -> dict[str, tuple[Graph, int]]:
        """All graphs to compile by name, with the number of layers that each serves."""
        found: dict[str, tuple[Graph, int]] = {}
        for graph in self.graphs.values():
            if isinstance(graph, LayeredGraph):
                layers = {graph.layer.name: graph.num_layers}
                found |= {part.name: (part, layers.get(part.name, 1)) for part in graph.parts}
            else:
                found[graph.name] = graph, 1
        return found

    def read(self, name: str) -> Tensor:
        """Return a tensor as its module holds it."""
        return read_joined(self.model, name, self._read)

    def _read(self, name: str) -> Tensor:
        return stored(self.model, name, self.weights.read(name))


def cut(recipe: Recipe) -> Cut:
    """Cut a new model, with weights in the types in which they are stored."""
    family = FAMILIES[recipe.family]
    model = family.skeleton(recipe.checkpoint.config, recipe.dtype)
    weights = Weights(recipe.checkpoint, recipe.plan, family.TIED)
    keep_16bit_storage(model, weights)
    replace_modules(model, recipe.plan, shared_tables(family.TIED, recipe.checkpoint.tensors))
    graphs = family.device_graphs(model, recipe.rows, narrow=recipe.narrow)
    return Cut(model, {graph.name: graph for graph in graphs}, weights)


def layers_of(name: str, count: int) -> list[str]:
    """Return the names of a weight in all layers that a part serves, beginning with the first."""
    return [in_layer(name, index) for index in range(count)] if count > 1 else [name]


def build_parts(
    recipe: Recipe, folder: Path, progress: Progress, *, fresh: bool
) -> tuple[Layout, Cut]:
    """Compile all parts into a folder.

    Returns:
        Type and shape of each weight that packages take, of all layers; and the cut model.
    """
    whole = cut(recipe)
    # The longest first: steps of several rows try the most kernels.
    names = sorted(whole.parts, key=lambda name: not name.endswith(("_layer", "_after")))
    workers = min(_MOST_WORKERS, len(names), describe().cores)
    progress(f"compiling {len(names)} parts, {workers} at a time", None)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(build_part, recipe, name, folder, fresh) for name in names]
        for done, each in enumerate(running, 1):
            each.result()
            progress("compiling", done / len(names))
    tensors: Layout = {}
    for name in whole.parts:
        tensors |= tensors_of(folder, name, whole)
    return tensors, whole


def write_weights(folder: Path, tensors: Layout, whole: Cut, progress: Progress) -> None:
    """Write the weights of all layers, one in memory at a time.

    Raises:
        CheckpointError: A value is too large for the type of the graphs.
    """

    def read(name: str) -> Tensor:
        dtype, shape = tensors[name]
        # A single scale is repeated: modules have one per row.
        tensor = whole.read(name).to(dtype).expand(shape)
        if dtype.is_floating_point and not bool(tensor.isfinite().all()):
            kind = str(dtype).removeprefix("torch.")
            msg = f"{name} has values beyond {kind}: build with `dtype: bfloat16`"
            raise CheckpointError(msg)
        return tensor

    write_safetensors(folder / WEIGHTS, tensors, read, progress)


def tensors_of(folder: Path, name: str, whole: Cut) -> Layout:
    """Return type and shape of each weight that a package in a folder takes, of all its layers."""
    tensors: Layout = {}
    _, count = whole.parts[name]
    for constant in read_spec(folder / f"{name}.pt2").constants.values():
        kind = getattr(torch, constant.dtype), constant.shape
        tensors |= dict.fromkeys(layers_of(constant.name, count), kind)
    return tensors


def build_part(recipe: Recipe, name: str, folder: Path, fresh: bool) -> None:
    """Compile the part of that name into a folder, or take it from the cache."""
    whole = cut(recipe)
    graph, _ = whole.parts[name]
    names = parameter_names(graph, whole.model)
    path = folder / f"{name}.pt2"
    gpu = recipe.device.type == "cuda"
    settings = cuda_settings(_rows(graph)) if gpu else {}

    def compiled() -> None:
        compile_part(
            graph,
            names,
            path,
            device=recipe.device,
            kernels=gpu,
            settings=settings,
            home=recipe.home,
        )

    family, config = FAMILIES[recipe.family], recipe.checkpoint.config
    modules = {each.rpartition(".")[0] for each in names.values()}
    parts = {
        "graph": name,
        "architecture": family.architecture(config),
        "inputs": {n: f"{t.dtype} {t.shape}" for n, t in graph.inputs.items()},
        "weights": {n: f"{t.dtype} {t.shape}" for n, t in graph.module.named_parameters()},
        "schemes": {n: str(s) for n, s in recipe.plan.quantized.items() if n in modules},
        "device": dict(recipe.identity),
        "settings": settings,
        "versions": installed_versions(),
    }
    makers: Sequence[object] = (
        sys.modules[__name__],
        family,
        *recipe.plan.quantized.values(),
    )
    what = f"aoti {path.name} for {recipe.device.type}"
    get_or_build(path, what, parts, compiled, makers=makers, fresh=fresh)


def _rows(graph: Graph) -> int | None:
    """Return the rows of a part of a decoder's step; None if it takes any number."""
    hidden = graph.inputs.get("hidden")
    if hidden is None or 0 in graph.dynamic.get("hidden", {}):
        return None
    return hidden.shape[0]
