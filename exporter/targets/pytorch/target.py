"""torch-int8: an int8 state_dict in safetensors, and a transformers model rebuilt around it.

The files hold plain numbers, no packed or pickled objects; the loading machine decides how they are
multiplied.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator
from torch import Tensor, nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.formats.tensor_io import converted, safetensors_bytes, write_safetensors
from exporter.quantization.moved_options import refuse_moved
from exporter.quantization.plan import QuantizationPlan
from exporter.system.accelerators import Device
from exporter.targets.base import Job, Records
from exporter.targets.options import TargetOptions
from exporter.targets.pytorch.devices import SUPPORT
from exporter.targets.pytorch.files import QUANTIZATION, WEIGHTS, contents, rebuilt

SCHEMES = frozenset({"float", "dynamic-int8", "static-int8", "weight-int4", "weight-int8"})


class Options(TargetOptions):
    """The options of a torch-int8 target, which has none of its own."""

    _moved = model_validator(mode="before")(refuse_moved("modules", "exclude", "per_channel"))


def check(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> None:
    """Accept every model and machine."""


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
    """Write `model.safetensors` and `quantization.json`."""
    model = job.family.skeleton(job.checkpoint.config)
    weights, tensors, record = contents(job.plan, model, job.checkpoint, job.family)

    def read(name: str) -> Tensor:
        return converted(weights.read(name), tensors[name][0], name)

    write_safetensors(job.folder / WEIGHTS, tensors, read, job.progress)
    (job.folder / QUANTIZATION).write_text(record, encoding="utf-8")
    return BuildResult(
        needs=Requirements(packages=("torch",), device=job.device),
        options=job.options.model_dump(mode="json"),
        quantization=job.plan.as_data(),
    )


def layout(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> dict[str, int]:
    """Return the files' exact sizes in bytes."""
    _, tensors, record = contents(plan, model, checkpoint, family)
    return {WEIGHTS: safetensors_bytes(tensors), QUANTIZATION: len(record.encode())}


def records(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    choices: Mapping[str, AutotuneResult],
) -> Records:
    """Return the plan, and `quantization.json`."""
    _, _, record = contents(plan, model, checkpoint, family)
    return Records(plan, {QUANTIZATION: record.encode()})


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
    """Rebuild the quantized model, a transformers class, without the original."""
    support = SUPPORT[device]
    return rebuilt(folder, manifest, family, support.modules, support.torch_device)
