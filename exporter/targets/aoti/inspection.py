"""How aoti rounds, and its stored weights beside the checkpoint's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.attention import CACHE_DTYPE, kept, narrowed
from exporter.families.base import Family
from exporter.families.graph import GraphFunction, parameter_names
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.quantization.simulate import Round, Rounding
from exporter.targets.aoti.cuda import inspection as cuda
from exporter.targets.aoti.graph_builder import StoredTensors, prepared, setup_of
from exporter.targets.aoti.modules.dynamic_int8 import Activations
from exporter.targets.aoti.options import Options
from exporter.targets.inspection import StoredWeight, Unrounded, plan_of

EXACT = False
_WEIGHTS = "weights.safetensors"


def rounding(
    manifest: Manifest, scheme: IntegerScheme | None, *, graph: str, once: bool, narrow: bool
) -> Rounding:
    """Return the rounding of our kernels: int8 with a scale per row, and that of both caches."""
    options = Options.model_validate(manifest.options)
    if options.device == "cuda":
        return cuda.rounding(options, narrow=narrow)
    # Without VNNI an encoder's weights are widened instead, but for those in groups.
    widened = once and not options.vnni and not isinstance(scheme, WeightOnly)
    inputs = None if scheme is None or widened else _INPUTS[scheme.name](scheme)
    return Rounding(
        inputs=inputs,
        window_cache=kept,
        token_cache=_narrowed,
        dtype=options.variant(graph).precision,
    )


def _rows(states: Tensor) -> Tensor:
    codes, scale = Activations().quantize(states)
    return (codes * scale).reshape(states.shape)


_INPUTS: dict[str, Callable[[Any], Round]] = {
    "dynamic-int8": lambda _: _rows,
    "static-int8": lambda scheme: scheme.rounded,
    "weight-int4": lambda scheme: scheme.rounded,
    "weight-int8": lambda scheme: scheme.rounded,
}


def _narrowed(states: Tensor, heads: int) -> Tensor:
    return narrowed(states, CACHE_DTYPE).float()


def stored(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
) -> Iterator[StoredWeight]:
    """Yield every tensor of `weights.safetensors`, and those that it lacks."""
    options = Options.model_validate(manifest.options)
    plan = plan_of(folder, manifest)
    if options.device == "cuda":
        yield from cuda.stored(folder, options, plan, checkpoint)
        return
    setup = setup_of(options, plan, family.skeleton(checkpoint.config), family)
    cuts = [prepared(setup, checkpoint, family, name) for name in setup.variants]
    readers: dict[str, StoredTensors] = {}
    # A graph's module may hold weights that only another graph uses, in that one's type.
    compiled: dict[str, dict[torch.dtype, torch.Size]] = {}
    for graph, model, weights in cuts:
        own: dict[str, Tensor] = {}
        own |= graph.module.named_parameters(remove_duplicate=False)
        own |= graph.module.named_buffers()
        for inner, name in parameter_names(graph, model).items():
            readers.setdefault(name, weights)
            compiled.setdefault(name, {})[own[inner].dtype] = own[inner].shape
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        names = set(file.keys())
        for name, types in compiled.items():
            there = file.get_tensor(name) if name in names else None
            usual = next(iter(types))
            dtype = usual if there is None or there.dtype not in types else there.dtype
            expected = readers[name].read(name).to(dtype).expand(types[dtype])
            yield StoredWeight(_WEIGHTS, name, there, expected)
        for name in sorted(names - compiled.keys()):
            yield StoredWeight(_WEIGHTS, name, file.get_tensor(name), None)


def unrounded(folder: Path, manifest: Manifest, family: Family, threads: int) -> Unrounded | None:
    """Return None: compiled code rounds as it was compiled."""
    return None


def others(folder: Path, manifest: Manifest, threads: int) -> dict[str, GraphFunction]:
    """Return none: all files are used by `load`."""
    return {}
