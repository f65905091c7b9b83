"""aoti: torch.export graphs compiled ahead of time by AOTInductor, one `.pt2` package each.

The packages hold code and no weights: those lie beside them in one safetensors file, which loading
maps into memory. So weights are streamed like everybody else's, and compiling needs none of them.

The packages hold native code, so this target is strict at both ends: what the compiler may emit is
pinned to an x86-64 level that the manifest names, and nothing of a package is opened before the
machine and the package's members have been checked. Loading needs no compiler.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact.manifest import BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import MachineError, RecipeError
from exporter.families.base import Family
from exporter.families.graph import parameter_names
from exporter.formats.tensor_io import Layout, safetensors_bytes, write_safetensors
from exporter.quantization.plan import plan_linears
from exporter.quantization.weights import Weights
from exporter.system.accelerators import Device
from exporter.system.hardware import require_features
from exporter.targets.aoti.autotune import choose, largest, num_trials
from exporter.targets.aoti.compiler import require_compiler
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.graph_builder import build_graph, graphs, kept, prepared, taken
from exporter.targets.aoti.options import Options
from exporter.targets.aoti.package import Package, read_spec
from exporter.targets.base import Job

__all__ = ["Options", "build", "check", "layout", "load", "num_trials"]

# Native code in a package: what is there once, and about what one module with weights takes.
_WEIGHTS = "weights.safetensors"
_CODE_BYTES = 150_000
_MODULE_BYTES = 3_000


def check(options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family) -> None:
    """Refuse graph names and patterns that fit nothing, and a machine without a compiler."""
    names = [graph.name for graph in family.graphs(model, cache="static")]
    for name, option in sorted(options.named.items()):
        if name not in names:
            msg = f"{option}: there is no graph {name!r}; the graphs are {', '.join(names)}"
            raise RecipeError(msg)
    plan_linears(model, exclude=kept(options, family))
    require_features(options.features, f"march {options.march}")
    require_compiler()


def layout(
    options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> dict[str, int]:
    """Foretell the files' sizes: weights to the byte or nearly, code about right.

    Of a graph that the build chooses for, the largest that may come of it.
    """
    settled = largest(options, model, checkpoint, family)
    files: dict[str, int] = {}
    tensors: Layout = {}
    for name in [graph.name for graph in family.graphs(model, cache="static")]:
        graph, own, _ = prepared(settled, checkpoint, family, name)
        # What an earlier graph holds, like the cross-attention's keys, this one does not use.
        names = parameter_names(graph, own)
        new = {names[n]: t for n, t in graph.module.named_parameters() if names[n] not in tensors}
        modules = len({n.rpartition(".")[0] for n in new})
        files[f"{name}.pt2"] = _CODE_BYTES + _MODULE_BYTES * modules
        tensors |= {n: (t.dtype, tuple(t.shape)) for n, t in new.items()}
    return {**files, _WEIGHTS: safetensors_bytes(tensors)}


def build(job: Job[Options]) -> BuildResult:
    """Compile one package per graph of the family's static cut, then write all weights once."""
    model = job.family.skeleton(job.checkpoint.config)
    check(job.options, model, job.checkpoint, job.family)
    options, choices = choose(job)
    job = replace(job, options=options)
    given = taken(job)
    tensors: Layout = {}
    readers: dict[str, Weights] = {}
    for graph in graphs(job):
        used, weights = build_graph(job, graph.name, given)
        tensors |= used
        readers |= dict.fromkeys(used, weights)

    def read(name: str) -> Tensor:
        return readers[name].read(name).to(tensors[name][0])

    write_safetensors(job.folder / _WEIGHTS, tensors, read, job.progress)
    return BuildResult(
        needs=Requirements(
            cpu_features=tuple(sorted(options.features)), packages=("torch",), device=job.device
        ),
        options=options.model_dump(mode="json"),
        choices=choices,
    )


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
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
    place = str(SUPPORT[device].torch_device)
    # On the CPU they are mapped; all graphs share them.
    with safe_open(folder / _WEIGHTS, framework="pt", device=place) as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    functions = {path.stem: Package(path, spec, weights, device) for path, spec in specs.items()}
    caches = {t.dtype for spec in specs.values() for t in spec.inputs.values() if t.mutated}
    return family.assemble(folder, functions, getattr(torch, min(caches, default="float32")))


def _minor(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:2])
