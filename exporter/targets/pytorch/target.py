"""torch-int8: an int8 state_dict in safetensors, and a transformers model rebuilt around it.

The files hold plain numbers, no packed or pickled objects; how they are multiplied is decided where
they are loaded.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact.manifest import BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import Layout, converted, safetensors_bytes, write_safetensors
from exporter.quantization.modules import replace_module
from exporter.quantization.moved_options import refuse_moved
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.weights import Weights
from exporter.system.hardware import describe
from exporter.targets.base import Job

SCHEMES = frozenset({"float", "dynamic-int8"})
_WEIGHTS = "model.safetensors"
_QUANTIZATION = "quantization.json"


class Options(BaseModel):
    """What a recipe may say of a torch-int8 target: nothing beyond the quantization plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    _moved = model_validator(mode="before")(refuse_moved("modules", "exclude", "per_channel"))


class Int8Linear(nn.Module):
    """A linear module on int8 weights, its activations quantized to u8 at every call.

    `quantized.linear_dynamic` is the fastest int8 product torch has on x86: one call, with the
    weights packed for the CPU's own instructions. Where u8 x s8 products saturate (no VNNI), the
    activations keep to 7 bits.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._reduce_range = not describe().vnni
        with warnings.catch_warnings():  # torch announces an end of its quantized tensor type
            warnings.simplefilter("ignore", UserWarning)
            numbers = torch._make_per_channel_quantized_tensor(
                weight,
                scale.double().expand(self.out_features),
                torch.zeros(self.out_features, dtype=torch.int64),
                0,
            )
        self._packed = torch.ops.quantized.linear_prepack(numbers, bias)

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic(
            states, self._packed, self._reduce_range
        )
        return product


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
    """Nothing is left to the build."""
    return 0


def build(job: Job[Options]) -> BuildResult:
    """Write `model.safetensors` and `quantization.json`."""
    model = job.family.skeleton(job.checkpoint.config)
    weights, tensors, record = _contents(job.plan, model, job.checkpoint, job.family)

    def read(name: str) -> Tensor:
        return converted(weights.read(name), tensors[name][0], name)

    write_safetensors(job.folder / _WEIGHTS, tensors, read, job.progress)
    (job.folder / _QUANTIZATION).write_text(record, encoding="utf-8")
    needs = Requirements(packages=("torch",))
    return BuildResult(
        needs=needs,
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
    """Foretell the files' sizes, to the byte."""
    _, tensors, record = _contents(plan, model, checkpoint, family)
    return {_WEIGHTS: safetensors_bytes(tensors), _QUANTIZATION: len(record.encode())}


def load(folder: Path, manifest: Manifest, family: Family, threads: int) -> Any:
    """Rebuild the quantized model, a transformers class, without the original."""
    model = family.skeleton(read_json(folder / "config.json"))
    quantized = read_json(folder / _QUANTIZATION)["modules"]
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        names = set(file.keys())
        for name in quantized:
            weight, scale = (file.get_tensor(f"{name}.{leaf}") for leaf in ("weight", "scale"))
            bias = f"{name}.bias"
            kept = file.get_tensor(bias).float() if bias in names else None
            replace_module(model, name, Int8Linear(weight, scale, kept))
        # Widen what was stored in 16 bits: the kernels around the int8 products are float32.
        wanted = names & model.state_dict().keys()
        floats = {name: file.get_tensor(name).float() for name in wanted}
    for name, stored in family.TIED.items():
        if name in model.state_dict() and name not in floats:
            floats[name] = floats[stored]
    model.load_state_dict(floats, assign=True)
    model.generation_config = family.generation_config(folder)
    family.attach_engine(model)
    return model


def _contents(
    plan: QuantizationPlan, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> tuple[Weights, Layout, str]:
    """Where tensors are read from, what each is, and what `quantization.json` says of them."""
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
