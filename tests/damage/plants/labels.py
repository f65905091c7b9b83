"""Artifacts that are not what their manifest and recipe say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.damage.planting import Registry, editing, replacing
from tests.damage.plants.scales import on, quantized
from tests.damage.tensors import Tensors, tensors_of

PLANTS = Registry()
_FLOAT = "model.decoder.layers.1.fc2"


def _moved(module: str, group: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    """The manifest gives a module another scheme than its numbers have."""

    def change(manifest: dict[str, Any]) -> None:
        for one in manifest["quantization"]:
            one["modules"] = [name for name in one["modules"] if name != module]
        manifest["quantization"].append({**group, "modules": [module]})

    return change


def _parameters(**values: Any) -> Callable[[dict[str, Any]], object]:
    """The manifest gives every quantized module other parameters."""

    def change(manifest: dict[str, Any]) -> None:
        for one in manifest["quantization"]:
            if one["scheme"] == "dynamic-int8":
                one["parameters"].update(values)

    return change


def _seven(tensors: Tensors) -> None:
    """Codes and scales of 7 bits."""
    for name in quantized(tensors):
        tensors[f"{name}.weight"].copy_((tensors[f"{name}.weight"].float() * 63 / 127).round())
        tensors[f"{name}.scale"].mul_(127 / 63)


def _per_tensor(tensors: Tensors) -> None:
    """Codes of one scale for all rows, and that scale for each."""
    for name in quantized(tensors):
        codes, scale = tensors[f"{name}.weight"], tensors[f"{name}.scale"]
        widest = scale.max()
        codes.copy_((codes.float() * (scale / widest)[:, None]).round())
        scale.fill_(float(widest))


def _float_module(folder: Path) -> None:
    """One int8 module becomes float32: the artifact has more than its label says."""
    with editing(folder / "quantization.json") as record, tensors_of(folder) as tensors:
        del record["modules"][_FLOAT]
        codes, scale = tensors.pop(f"{_FLOAT}.weight"), tensors.pop(f"{_FLOAT}.scale")
        tensors[f"{_FLOAT}.weight"] = codes.float() * scale[:, None]


def _missing_module(folder: Path) -> None:
    with editing(folder / "quantization.json") as record:
        del record["modules"][_FLOAT]


def _unknown_module(folder: Path) -> None:
    with editing(folder / "quantization.json") as record:
        record["modules"]["model.decoder.layers.9.fc2"] = {"per_channel": True}


def _flag(folder: Path) -> None:
    with editing(folder / "quantization.json") as record:
        record["modules"][_FLOAT]["per_channel"] = False


def _no_bias(folder: Path) -> None:
    with tensors_of(folder) as tensors:
        del tensors[f"{_FLOAT}.bias"]


def _without_tensor(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with tensors_of(folder) as tensors:
            del tensors[name]

    return change


def _reshaped(folder: Path) -> None:
    with tensors_of(folder) as tensors:
        name = "model.decoder.layers.0.fc1.weight"
        tensors[name] = tensors[name].t().contiguous()


def _wider(folder: Path) -> None:
    """Scales in float64."""
    with tensors_of(folder) as tensors:
        for name in [name for name in tensors if name.endswith(".scale")]:
            tensors[name] = tensors[name].double()


def _stray(folder: Path) -> None:
    """A tensor that nothing reads: twice the size of what is needed."""
    with tensors_of(folder) as tensors:
        tensors["model.decoder.unused"] = torch.zeros(1_000_000)


def _recipe(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: replacing(folder / "recipe.yaml", old, new)


def _recipe_scheme(text: str) -> Callable[[Path], None]:
    """The recipe asks for another scheme than the artifact has."""

    def change(folder: Path) -> None:
        path = folder / "recipe.yaml"
        path.write_text(
            f"{path.read_text(encoding='utf-8')}quantization: {text}\n", encoding="utf-8"
        )

    return change


_INT8 = {"scheme": "dynamic-int8", "parameters": {"bits": 8, "per_channel": True}}
_FLOAT32 = {"scheme": "float", "parameters": {"dtype": None}}

add = PLANTS.add
add(
    "label-float-is-int8",
    "tiny/torch-int8",
    "medium",
    "plan|float",
    manifest=_moved("proj_out", _FLOAT32),
)
add(
    "label-float-is-int8-onnx",
    "tiny/onnx-int8",
    "medium",
    "plan|float",
    manifest=_moved("model.encoder.layers.0.fc1", _FLOAT32),
)
add("label-7-bits-is-8", "tiny/onnx-int8", "subtle", "plan|bits", manifest=_parameters(bits=7))
add("label-8-bits-is-7", "tiny/torch-int8", "subtle", "plan|bits|weights", on(_seven))
add("label-8-bits-is-7-aoti", "tiny/aoti", "subtle", "plan|bits|weights", on(_seven))
add(
    "label-per-tensor-is-per-channel",
    "tiny/torch-int8",
    "subtle",
    "plan|per_channel",
    manifest=_parameters(per_channel=False),
)
add(
    "label-per-channel-is-per-tensor",
    "tiny/aoti",
    "subtle",
    "plan|per_channel|weights",
    on(_per_tensor),
)
add(
    "label-per-channel-is-per-tensor-onnx",
    "tiny/onnx-int8",
    "subtle",
    "plan|per_channel|weights",
    on(_per_tensor),
)
add(
    "label-preset",
    "tiny/onnx-int8",
    "latent",
    "plan|preset",
    manifest=lambda m: m["options"].update(preset="avx2"),
)
add(
    "label-layout",
    "tiny/onnx-web",
    "latent",
    "plan|layout|optimum",
    manifest=lambda m: m["options"].update(layout="optimum"),
)
add(
    "label-dtype",
    "tiny/aoti",
    "latent",
    "plan|dtype",
    manifest=lambda m: m["options"].update(dtype="bfloat16"),
)
add(
    "label-plan-missing",
    "tiny/torch-int8",
    "latent",
    "plan|quantization",
    manifest=lambda m: m.update(quantization=[]),
)
add(
    "label-recipe-per-tensor",
    "tiny/torch-int8",
    "subtle",
    "plan|recipe|per_channel",
    _recipe_scheme("{default: {scheme: dynamic-int8, per_channel: false}}"),
)
add(
    "label-recipe-float",
    "tiny/onnx-int8",
    "subtle",
    "plan|recipe|float",
    _recipe_scheme("{modules: {'*.fc1': float}, default: dynamic-int8}"),
)
add(
    "label-other-original",
    "tiny/torch-int8",
    "severe",
    "checkpoint|original",
    manifest=lambda m: m["checkpoint"].update(sha256="0" * 64),
)
add("module-is-float", "tiny/torch-int8", "latent", "plan|fc2|quantization.json", _float_module)
add("record-module-missing", "tiny/torch-int8", "severe", "fc2|quantization.json", _missing_module)
add(
    "record-module-unknown",
    "tiny/torch-int8",
    "severe",
    "layers.9|quantization.json",
    _unknown_module,
)
add("record-flag", "tiny/torch-int8", "latent", "per_channel|quantization.json", _flag)
add("tensor-bias-missing", "demo/torch-int8", "medium", "bias", _no_bias)
add(
    "tensor-missing",
    "tiny/torch-int8",
    "severe",
    "layer_norm",
    _without_tensor("model.encoder.layers.0.final_layer_norm.weight"),
)
add(
    "tensor-missing-aoti",
    "tiny/aoti",
    "severe",
    "fc1",
    _without_tensor("model.decoder.layers.0.fc1.bias"),
)
add("tensor-reshaped", "tiny/torch-int8", "severe", "fc1", _reshaped)
add("scales-in-float64", "tiny/torch-int8", "latent", "scale", _wider)
add("tensor-stray", "tiny/torch-int8", "medium", "unused", _stray)
add(
    "recipe-beams-1",
    "demo/onnx-int8",
    "latent",
    "recipe|beams",
    _recipe("num_beams: 2", "num_beams: 1"),
)
add(
    "recipe-other-language",
    "tiny/onnx-int8",
    "latent",
    "recipe|language",
    _recipe("language: en", "language: de"),
)
add(
    "recipe-gate-loosened",
    "tiny/torch-int8",
    "latent",
    "recipe|gate",
    _recipe("max_wer_increase: 0.05", "max_wer_increase: 1"),
)
