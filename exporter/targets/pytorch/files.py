"""The files of torch-int8: their contents, and the model rebuilt from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families import read_config
from exporter.families.base import Family
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import Layout
from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.weights import Weights

WEIGHTS = "model.safetensors"
QUANTIZATION = "quantization.json"
Linear = Callable[[Tensor, Tensor, Tensor | None], nn.Module]


def rebuilt(
    folder: Path, manifest: Manifest, family: Family, linear: Linear, device: torch.device
) -> Any:
    """Rebuild the quantized model, a transformers class, without the original.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        family: Its family.
        linear: Makes a module of int8 codes [out, in], scales and a bias.
        device: The device of the tensors.
    """
    model = family.skeleton(read_config(folder / "config.json", manifest.family))
    quantized = read_json(folder / QUANTIZATION)["modules"]
    with safe_open(folder / WEIGHTS, framework="pt", device=str(device)) as file:
        names = set(file.keys())
        for name in quantized:
            weight, scale = (file.get_tensor(f"{name}.{leaf}") for leaf in ("weight", "scale"))
            bias = f"{name}.bias"
            float_bias = file.get_tensor(bias).float() if bias in names else None
            replace_module(model, name, linear(weight, scale, float_bias))
        # Convert tensors stored in 16 bits: the operators around the int8 products are float32.
        wanted = names & model.state_dict().keys()
        floats = {name: file.get_tensor(name).float() for name in wanted}
    for name, stored in family.TIED.items():
        if name in model.state_dict() and name not in floats:
            floats[name] = floats[stored]
    model.load_state_dict(floats, assign=True)
    family.attach_engine(model, folder)
    return model


def contents(
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
