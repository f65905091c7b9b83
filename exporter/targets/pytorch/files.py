"""The files of torch-int8: their contents, and the model rebuilt from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import IntegrityError
from exporter.families import read_config
from exporter.families.base import Family
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import Layout, TensorInfo, mapped, safetensors_infos
from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.schemes import DEFAULT, SCHEMES
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.quantization.weights import Weights
from exporter.system.hardware import large_blocks_returned
from exporter.targets.pytorch.modules import Make

WEIGHTS = "model.safetensors"
QUANTIZATION = "quantization.json"
_STATIC = "per tensor; dynamic, but of static-int8 u8 by input_scale and input_zero_point"
_GROUPS = {
    "groups": (
        "weight-int4 and weight-int8: uint8 codes [out, in], of 4 bits packed low nibble first; "
        "weight ~ (code - zero) * scale of its group; activations in float"
    )
}


@large_blocks_returned()
def rebuilt(
    folder: Path,
    manifest: Manifest,
    family: Family,
    modules: Mapping[str, Make],
    device: torch.device,
) -> Any:
    """Rebuild the quantized model, a transformers class, without the original.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        family: Its family.
        modules: Makes the modules of each scheme.
        device: The device of the tensors.
    """
    model = family.skeleton(read_config(folder / "config.json", manifest.family))
    quantized = _schemes(folder / QUANTIZATION)
    shared = shared_tables(family.TIED, ())
    file = safetensors_infos(folder / WEIGHTS)
    for name, scheme in quantized.items():
        stored = shared.get(name, name)
        own, shape = model.get_submodule(name), model.get_parameter(f"{name}.weight").shape
        # Weights that a product packs are read, so that no page of them stays in memory. Of a
        # table, which is mapped, the rows of few tokens are used.
        found = mapped if name in shared else TensorInfo.read
        leaves = scheme.layout(tuple(shape), torch.float32)
        tensors = {leaf: found(file[f"{stored}.{leaf}"]).to(device) for leaf in leaves}
        bias = file.get(f"{name}.bias")
        float_bias = None if bias is None else bias.read().to(device).float()
        replace_module(model, name, modules[scheme.name](own, scheme, tensors, float_bias))
    # Convert tensors stored in 16 bits: the operators around the int8 products are float32.
    wanted = file.keys() & model.state_dict().keys()
    floats = {name: file[name].read().to(device).float() for name in wanted}
    for name, stored in family.TIED.items():
        if name in model.state_dict() and name not in floats:
            floats[name] = floats[stored]
    model.load_state_dict(floats, assign=True)
    family.attach_engine(model, folder)
    return model


def _schemes(path: Path) -> dict[str, IntegerScheme]:
    """Return the scheme of each quantized module, from `quantization.json`."""
    schemes: dict[str, IntegerScheme] = {}
    for module, entry in read_json(path)["modules"].items():
        parameters = dict(entry)
        try:
            scheme = SCHEMES[parameters.pop("scheme", DEFAULT)].Scheme.model_validate(parameters)
        except (KeyError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            msg = f"{path}: {module} has a scheme that no recipe has ({reason})"
            raise IntegrityError(msg) from error
        if not isinstance(scheme, IntegerScheme):
            msg = f"{path}: {module} is not quantized"
            raise IntegrityError(msg)
        schemes[module] = scheme
    return schemes


def _entry(scheme: IntegerScheme) -> dict[str, Any]:
    """Return what `quantization.json` holds of a scheme: the first one is not named."""
    if scheme.name == DEFAULT:
        return {"per_channel": scheme.parameters["per_channel"]}
    return {"scheme": scheme.name, **scheme.parameters}


def contents(
    plan: QuantizationPlan, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> tuple[Weights, Layout, str]:
    """Return the reader of tensors, their types and shapes, and the text of `quantization.json`."""
    weights = Weights(checkpoint, plan, family.TIED)
    state = model.state_dict()
    for name in family.TIED:
        if name.rpartition(".")[0] not in plan.quantized and name not in checkpoint.tensors:
            del state[name]
    for table in shared_tables(family.TIED, checkpoint.tensors).keys() & plan.quantized.keys():
        del state[f"{table}.weight"]  # the head's
    tensors = {name: (weights.dtype(name), tuple(state[name].shape)) for name in state}
    for module, scheme in plan.modules.items():
        if f"{module}.weight" in tensors:
            stored, shape = tensors[f"{module}.weight"]
            leaves = scheme.layout(shape, stored)
            tensors |= {f"{module}.{leaf}": leaves[leaf] for leaf in leaves}
    modules = {name: _entry(scheme) for name, scheme in plan.quantized.items()}
    record = {
        "schema_version": 1,
        "weights": "symmetric int8 [out, in]; weight ~ int8 * scale",
        "activations": _STATIC if plan.calibrated else "dynamic, per tensor",
        **(_GROUPS if any(isinstance(s, WeightOnly) for s in plan.quantized.values()) else {}),
        "modules": modules,
    }
    return weights, tensors, json.dumps(record, indent=1) + "\n"
