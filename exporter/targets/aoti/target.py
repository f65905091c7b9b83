"""aoti: torch.export graphs compiled ahead of time by AOTInductor, one `.pt2` package each.

Packages hold no weights: these are in one safetensors file beside them, which loading maps into
memory. So weights are streamed as by other targets, and compiling needs none of them.

Packages hold native code. So the compiler is limited to an x86-64 level that the manifest names,
and no package is opened before the machine and the package's members have been checked. Loading
needs no compiler, and torch only where a package calls it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact import store
from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import RecipeError
from exporter.families.base import Family
from exporter.families.graph import parameter_names
from exporter.formats.tensor_io import Layout, safetensors_bytes, write_safetensors
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.schemes.float import Scheme as Float
from exporter.system.accelerators import Device
from exporter.system.hardware import require_features, require_threads
from exporter.system.tempdirs import scratch
from exporter.targets.aoti import autotune
from exporter.targets.aoti.compiler import require_compiler
from exporter.targets.aoti.cuda import target as cuda
from exporter.targets.aoti.cuda.load import load as load_for_cuda
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.graph_builder import (
    Setup,
    StoredTensors,
    build_graph,
    prepared,
    setup_of,
    taken,
)
from exporter.targets.aoti.options import Options
from exporter.targets.aoti.package import Package, read_spec, require_torch
from exporter.targets.base import Job, Records

SCHEMES = frozenset({"float", "dynamic-int8", "static-int8", "weight-int4", "weight-int8"})
# Estimated native code of a package, compressed: once, and for each module with weights.
_WEIGHTS = "weights.safetensors"
_CODE_BYTES = 137_000
_MODULE_BYTES = 700


def check(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> None:
    """Refuse unknown graph names, float weights with a dtype, and a missing compiler."""
    if options.device == "cuda":
        cuda.check(options, plan)
        return
    names = [graph.name for graph in family.graphs(model, cache="static")]
    for name, option in sorted(options.named.items()):
        if name not in names:
            msg = f"{option}: there is no graph {name!r}; the graphs are {', '.join(names)}"
            raise RecipeError(msg)
    for name, scheme in plan.modules.items():
        if isinstance(scheme, Float) and scheme.dtype is not None:
            msg = (
                f"{name}: aoti has no `float` with a `dtype` of its own: float weights have the "
                "type that their graph computes in, the target's `dtype`"
            )
            raise RecipeError(msg)
    require_features(options.features, f"march {options.march}")
    require_compiler()


def layout(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> dict[str, int]:
    """Estimate the files' sizes in bytes: of weights nearly exact, of code approximate.

    A graph whose variant the build chooses counts with its largest candidate.
    """
    if options.device == "cuda":
        return cuda.layout(options, plan, checkpoint)
    setup = setup_of(options, plan, model, family)
    return _files(autotune.largest(setup, model, checkpoint, family), checkpoint, family)


def _files(setup: Setup, checkpoint: Checkpoint, family: Family) -> dict[str, int]:
    files: dict[str, int] = {}
    tensors: Layout = {}
    for name in setup.variants:
        graph, own, _ = prepared(setup, checkpoint, family, name)
        # Weights of an earlier graph, such as the cross-attention's keys, are not used again.
        names = parameter_names(graph, own)
        new = {names[n]: t for n, t in graph.module.named_parameters() if names[n] not in tensors}
        modules = len({n.rpartition(".")[0] for n in new})
        files[f"{name}.pt2"] = _CODE_BYTES + _MODULE_BYTES * modules
        tensors |= {n: (t.dtype, tuple(t.shape)) for n, t in new.items()}
    return {**files, _WEIGHTS: safetensors_bytes(tensors)}


def num_trials(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    """Return how many graphs a build compiles only to time them, for `dtype` auto."""
    if options.device == "cuda":
        return 0
    return autotune.num_trials(setup_of(options, plan, model, family), model, checkpoint, family)


def device_memory_bytes(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    """Estimate the memory of a card: weights, caches of the most rows, states of the encoder."""
    return cuda.device_memory_bytes(options, plan, checkpoint) if options.device == "cuda" else 0


def build(job: Job[Options]) -> BuildResult:
    """Compile one package per graph of the family's static cut, then write all weights once.

    For a GPU, see `exporter.targets.aoti.cuda`: the graphs are those of its cut for a device, and
    of layers that are alike one is compiled.
    """
    if job.device == "cuda":
        return cuda.build(job)
    model = job.family.skeleton(job.checkpoint.config)
    check(job.options, job.plan, model, job.checkpoint, job.family)
    setup, choices = autotune.choose(job, setup_of(job.options, job.plan, model, job.family))
    input_dtypes = taken(job, setup)
    tensors: Layout = {}
    readers: dict[str, StoredTensors] = {}
    for name in setup.variants:
        used, weights = build_graph(job, setup, name, input_dtypes)
        tensors |= used
        readers |= dict.fromkeys(used, weights)

    def read(name: str) -> Tensor:
        dtype, shape = tensors[name]
        # A single scale is repeated: the kernels take one per row.
        return readers[name].read(name).to(dtype).expand(shape)

    write_safetensors(job.folder / _WEIGHTS, tensors, read, job.progress)
    options = setup.options
    shared = shared_tables(job.family.TIED, job.checkpoint.tensors)
    left_float = [
        name for name in job.plan.quantized if f"{shared.get(name, name)}.scale" not in tensors
    ]
    specs = [read_spec(job.folder / f"{name}.pt2") for name in setup.variants]
    return BuildResult(
        needs=Requirements(
            cpu_features=tuple(sorted(options.features)),
            packages=("torch",) if any(spec.needs_torch for spec in specs) else (),
            device=job.device,
        ),
        options=options.model_dump(mode="json"),
        quantization=job.plan.with_scheme(left_float, Float()).as_data(),
        choices=choices,
    )


def records(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    choices: Mapping[str, AutotuneResult],
) -> Records:
    """Return the plan, with those modules left float whose every graph was chosen to be."""
    if options.device == "cuda":
        return Records(cuda.kept_plan(options, plan, checkpoint))
    graphs = family.graphs(model, cache="static")
    quantized = {
        name.rpartition(".")[0]
        for graph in graphs
        if graph.name not in choices or choices[graph.name].chosen != autotune.UNQUANTIZED
        for name in parameter_names(graph, model).values()
    }
    shared = shared_tables(family.TIED, checkpoint.tensors)
    left_float = [name for name in plan.quantized if shared.get(name, name) not in quantized]
    return Records(plan.with_scheme(left_float, Float()))


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
    """Check the machine and the packages, then open them and join them into a model.

    Raises:
        MachineError: The CPU, torch's version or the threads are not as compiled for.
        IntegrityError: A package is damaged or does not fit its weights.
    """
    if device == "cuda":
        return load_for_cuda(folder, manifest, family)
    require_features(manifest.needs.cpu_features, str(folder))
    if "torch" in manifest.needs.packages:
        require_torch(folder, manifest.versions.get("torch", "?"))
    require_threads(manifest.threads, threads, str(folder))
    packages = [file for file in manifest.files if file.path.endswith(".pt2")]
    with scratch() as place:  # what is checked is what runs, whoever else may write to the folder
        copies = {place / Path(file.path).name: file for file in packages}
        for copy, file in copies.items():
            copy.write_bytes(store.read_verified(folder, file))
        specs = {copy: read_spec(copy) for copy in copies}
        weights = _weights(folder / _WEIGHTS, device)
        functions = {
            copy.stem: Package(copy, spec, weights, device, folder / copy.name)
            for copy, spec in specs.items()
        }
    caches = {t.dtype for spec in specs.values() for t in spec.inputs.values() if t.mutated}
    return family.assemble(folder, functions, getattr(torch, min(caches, default="float32")))


def _weights(path: Path, device: Device) -> dict[str, Tensor]:
    """Return the weights, which all graphs share; on the CPU they are mapped into memory."""
    with safe_open(path, framework="pt", device=str(SUPPORT[device].torch_device)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
