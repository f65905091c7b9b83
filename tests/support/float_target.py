"""A target in one file, its facts included: the checkpoint's weights in float32, for torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.families.graph import GraphFunction
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import safetensors_bytes
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.simulate import Rounding
from exporter.system.accelerators import Device
from exporter.system.hardware import Machine
from exporter.targets.base import Job, Records
from exporter.targets.cost import MB, Cost
from exporter.targets.facts import Offer
from exporter.targets.inspection import StoredWeight
from exporter.targets.options import TargetOptions

DEFAULT_SCHEME = "float"

COSTS: dict[Device, Cost] = {
    "cpu": Cost(
        base_bytes=400 * MB,
        base_s=1.0,
        rate_bytes_s=400 * MB,
        reload_base_bytes=400 * MB,
        reload_ratio=2.0,
        reload_base_s=1.0,
        reload_bytes_s=400 * MB,
    )
}
SCHEMES = frozenset({"float"})
_WEIGHTS = "model.safetensors"


class Options(TargetOptions):
    """Nothing to choose but the device."""


def machine_offer(machine: Machine) -> Offer:
    return Offer(f"float32 products on {machine.cores} cores", {})


def check(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> None:
    pass


def layout(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> dict[str, int]:
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    return {_WEIGHTS: safetensors_bytes({n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()})}


def num_trials(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    return 0


def records(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    choices: Mapping[str, AutotuneResult],
) -> Records:
    return Records(plan)


def device_memory_bytes(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    return 0


def build(job: Job[Options]) -> BuildResult:
    return write(job, Requirements(packages=("torch",), device=job.device))


def write(job: Job[Any], needs: Requirements) -> BuildResult:
    """Write the weights, and answer with these needs."""
    checkpoint = job.checkpoint
    tensors = {name: checkpoint.read(name).contiguous() for name in checkpoint.tensors}
    save_file(tensors, job.folder / _WEIGHTS)
    options = job.options.model_dump(mode="json")
    return BuildResult(needs=needs, options=options, quantization=job.plan.as_data())


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
    model: Any = family.skeleton(read_json(folder / "config.json"))
    state = {name: t.float() for name, t in load_file(folder / _WEIGHTS, device=device).items()}
    for name, stored in family.TIED.items():
        state.setdefault(name, state[stored])
    model.load_state_dict(state, assign=True)
    model.generation_config = family.generation_config(folder)
    return model


class _Inspection:
    """Nothing is rounded, and every tensor is the checkpoint's."""

    EXACT = False

    def rounding(
        self, manifest: Manifest, scheme: None, *, graph: str, once: bool, narrow: bool
    ) -> Rounding:
        return Rounding()

    def stored(
        self, folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
    ) -> Iterator[StoredWeight]:
        for name, tensor in load_file(folder / _WEIGHTS).items():
            yield StoredWeight(_WEIGHTS, name, tensor, checkpoint.read(name))

    def unrounded(self, folder: Path, manifest: Manifest, family: Family, threads: int) -> None:
        return None

    def others(self, folder: Path, manifest: Manifest, threads: int) -> dict[str, GraphFunction]:
        return {}


inspection = _Inspection()
