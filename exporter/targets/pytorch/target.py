"""torch-int8: an int8 state_dict in safetensors, and a transformers model rebuilt around it.

The files hold plain numbers, no packed or pickled objects; how they are multiplied is decided where
they are loaded.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from exporter.artifact.manifest import BuildResult, Manifest, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import Layout, safetensors_bytes, write_safetensors
from exporter.quantization.modules import replace_module
from exporter.quantization.plan import Plan, QuantizationScheme, plan_linears
from exporter.quantization.weights import Weights
from exporter.system.accelerators import Device
from exporter.targets.base import Job
from exporter.targets.options import TargetOptions
from exporter.targets.pytorch.devices import SUPPORT

_WEIGHTS = "model.safetensors"
_QUANTIZATION = "quantization.json"


class Options(TargetOptions):
    """Shell-style patterns choose the linear modules: `modules` but not `exclude`."""

    modules: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    per_channel: bool = True


def check(options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family) -> None:
    """Refuse patterns that match no linear module."""
    _plan(options, model)


def num_trials(
    _options: Options, _model: nn.Module, _checkpoint: Checkpoint, _family: Family
) -> int:
    """Nothing is left to the build."""
    return 0


def build(job: Job[Options]) -> BuildResult:
    """Write `model.safetensors` and `quantization.json`."""
    model = job.family.skeleton(job.checkpoint.config)
    weights, tensors, record = _contents(job.options, model, job.checkpoint, job.family)
    write_safetensors(job.folder / _WEIGHTS, tensors, weights.read, job.progress)
    (job.folder / _QUANTIZATION).write_text(record, encoding="utf-8")
    needs = Requirements(packages=("torch",), device=job.device)
    return BuildResult(needs=needs, options=job.options.model_dump(mode="json"))


def layout(
    options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> dict[str, int]:
    """Foretell the files' sizes, to the byte."""
    _, tensors, record = _contents(options, model, checkpoint, family)
    return {_WEIGHTS: safetensors_bytes(tensors), _QUANTIZATION: len(record.encode())}


def load(
    folder: Path, manifest: Manifest, family: Family, threads: int, device: Device = "cpu"
) -> Any:
    """Rebuild the quantized model, a transformers class, without the original."""
    model = family.skeleton(read_json(folder / "config.json"))
    quantized = read_json(folder / _QUANTIZATION)["modules"]
    support = SUPPORT[device]
    with safe_open(folder / _WEIGHTS, framework="pt", device=str(support.torch_device)) as file:
        names = set(file.keys())
        for name in quantized:
            weight, scale = (file.get_tensor(f"{name}.{leaf}") for leaf in ("weight", "scale"))
            bias = f"{name}.bias"
            kept = file.get_tensor(bias).float() if bias in names else None
            replace_module(model, name, support.int8_linear(weight, scale, kept))
        # Widen what was stored in 16 bits: the kernels around the int8 products are float32.
        wanted = names & model.state_dict().keys()
        floats = {name: file.get_tensor(name).float() for name in wanted}
    for name, stored in family.TIED.items():
        if name in model.state_dict() and name not in floats:
            floats[name] = floats[stored]
    model.load_state_dict(floats, assign=True)
    family.attach_engine(model, folder)
    return model


def _plan(options: Options, model: nn.Module) -> Plan:
    scheme = QuantizationScheme(per_channel=options.per_channel)
    return plan_linears(model, include=options.modules, exclude=options.exclude, scheme=scheme)


def _contents(
    options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> tuple[Weights, Layout, str]:
    """Where tensors are read from, what each is, and what `quantization.json` says of them."""
    plan = _plan(options, model)
    weights = Weights(checkpoint, plan, family.TIED)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in plan.modules:
        shapes[f"{name}.scale"] = (shapes[f"{name}.weight"][0] if options.per_channel else 1,)
    for name in family.TIED:
        if name.rpartition(".")[0] not in plan.modules and name not in checkpoint.tensors:
            del shapes[name]
    record = {
        "schema_version": 1,
        "weights": "symmetric int8 [out, in]; weight ~ int8 * scale",
        "activations": "dynamic, per tensor",
        "modules": {name: {"per_channel": options.per_channel} for name in plan.modules},
    }
    tensors = {name: (weights.dtype(name), shape) for name, shape in shapes.items()}
    return weights, tensors, json.dumps(record, indent=1) + "\n"
