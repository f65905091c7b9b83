"""torch-int8: an int8 state_dict in safetensors, and a transformers model rebuilt around it.

The files hold plain numbers, no packed or pickled objects; the loading machine decides how they are
multiplied.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families import read_config
from exporter.families.base import Family
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import Layout, converted, safetensors_bytes, write_safetensors
from exporter.quantization.modules import replace_module
from exporter.quantization.moved_options import refuse_moved
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.weights import Weights
from exporter.system.accelerators import Device
from exporter.targets.base import Job, Records
from exporter.targets.options import TargetOptions
from exporter.targets.pytorch.devices import SUPPORT

SCHEMES = frozenset({"float", "dynamic-int8"})
_WEIGHTS = "model.safetensors"
_QUANTIZATION = "quantization.json"


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


def build(job: Job[Options]) -> BuildResult:
    """Write `model.safetensors` and `quantization.json`."""
    model = job.family.skeleton(job.checkpoint.config)
    weights, tensors, record = _contents(job.plan, model, job.checkpoint, job.family)

    def read(name: str) -> Tensor:
        return converted(weights.read(name), tensors[name][0], name)

    write_safetensors(job.folder / _WEIGHTS, tensors, read, job.progress)
    (job.folder / _QUANTIZATION).write_text(record, encoding="utf-8")
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
    _, tensors, record = _contents(plan, model, checkpoint, family)
    return {_WEIGHTS: safetensors_bytes(tensors), _QUANTIZATION: len(record.encode())}


def records(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    choices: Mapping[str, AutotuneResult],
) -> Records:
    """Return the plan, and `quantization.json`."""
    _, _, record = _contents(plan, model, checkpoint, family)
    return Records(plan, {_QUANTIZATION: record.encode()})


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
    """Rebuild the quantized model, a transformers class, without the original."""
    model = family.skeleton(read_config(folder / "config.json", manifest.family))
    quantized = read_json(folder / _QUANTIZATION)["modules"]
    support = SUPPORT[device]
    with safe_open(folder / _WEIGHTS, framework="pt", device=str(support.torch_device)) as file:
        names = set(file.keys())
        for name in quantized:
            weight, scale = (file.get_tensor(f"{name}.{leaf}") for leaf in ("weight", "scale"))
            bias = f"{name}.bias"
            float_bias = file.get_tensor(bias).float() if bias in names else None
            replace_module(model, name, support.int8_linear(weight, scale, float_bias))
        # Convert tensors stored in 16 bits: the operators around the int8 products are float32.
        wanted = names & model.state_dict().keys()
        floats = {name: file.get_tensor(name).float() for name in wanted}
    for name, stored in family.TIED.items():
        if name in model.state_dict() and name not in floats:
            floats[name] = floats[stored]
    model.load_state_dict(floats, assign=True)
    family.attach_engine(model, folder)
    return model


def _contents(
    plan: QuantizationPlan, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> tuple[Weights, Layout, str]:
    """Return the reader of tensors, their types and shapes, and the text of `quantization.json`."""
    weights = Weights(checkpoint, plan, family.TIED)
    state = model.state_dict()
    for name in family.TIED:
        if name.rpartition(".")[0] not in plan.quantized and name not in checkpoint.tensors:
            del state[name]
    tensors = {name: (weights.dtype(name), tuple(state[name].shape)) for name in state}
    for module, scheme in plan.modules.items():
        if f"{module}.weight" in tensors:
            stored, shape = tensors[f"{module}.weight"]
            leaves = scheme.layout(shape, stored)
            tensors |= {f"{module}.{leaf}": leaves[leaf] for leaf in leaves}
    modules = {
        name: {"per_channel": scheme.parameters["per_channel"]}
        for name, scheme in plan.quantized.items()
    }
    record = {
        "schema_version": 1,
        "weights": "symmetric int8 [out, in]; weight ~ int8 * scale",
        "activations": "dynamic, per tensor",
        "modules": modules,
    }
    return weights, tensors, json.dumps(record, indent=1) + "\n"
