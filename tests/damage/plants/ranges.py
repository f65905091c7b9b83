"""Ranges of static quantization: stored scales and zero points, and what the manifest tells."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporter.artifact.manifest import MANIFEST
from exporter.quantization.schemes.static_int8 import Scheme
from tests.damage.onnx_graphs import Edited
from tests.damage.planting import Change, Registry, editing
from tests.damage.plants.graphs import on as on_graph
from tests.damage.plants.scales import on
from tests.damage.tensors import Tensors

PLANTS = Registry()
Range = tuple[float, float]
_OWN = "quantization.json"
_CONV = "model.encoder.conv2"
_LAYER = "model.encoder.layers.{}.{}"
_FC1, _FC2 = _LAYER.format(1, "fc1"), _LAYER.format(0, "fc2")


def _scaled(name: str, factor: float) -> Change:
    return on(lambda t: t[f"{name}.input_scale"].mul_(factor))


def _moved(name: str, by: int) -> Change:
    return on(lambda t: t[f"{name}.input_zero_point"].copy_(_code(t, name) + by))


def _code(tensors: Tensors, name: str) -> int:
    return int(tensors[f"{name}.input_zero_point"])


def _swapped(one: str, other: str) -> Change:
    """What calibration found for two modules, under each other's names."""

    def edit(tensors: Tensors) -> None:
        for leaf in ("input_scale", "input_zero_point"):
            first, second = tensors[f"{one}.{leaf}"], tensors[f"{other}.{leaf}"]
            kept = first.clone()
            first.copy_(second)
            second.copy_(kept)

    return on(edit)


def told(values: dict[str, Any], module: str) -> Range:
    """Return the range of a module in a manifest."""
    (group,) = [g for g in values["quantization"] if module in g["modules"]]
    return group["parameters"]["low"], group["parameters"]["high"]


def tell(values: dict[str, Any], module: str, ends: Range) -> None:
    """Give a module, and no other one of its group, another range in a manifest."""
    groups = values["quantization"]
    (group,) = [g for g in groups if module in g["modules"]]
    group["modules"].remove(module)
    parameters = {**group["parameters"], "low": ends[0], "high": ends[1]}
    groups.append({"scheme": group["scheme"], "parameters": parameters, "modules": [module]})
    values["quantization"] = [each for each in groups if each["modules"]]


Ranges = Callable[[dict[str, Any]], dict[str, Range]]
"""Gives modules their wrong ranges, from a manifest."""


def _calibrated(wrong: Ranges) -> dict[str, Any]:
    """Return the parts of a plant whose files all have the same wrong ranges."""

    def change(folder: Path) -> None:
        found = wrong(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))

        def store(tensors: Tensors) -> None:
            for module, (low, high) in found.items():
                scheme = Scheme(low=low, high=high)
                tensors[f"{module}.input_scale"].fill_(scheme.input_scale)
                tensors[f"{module}.input_zero_point"].fill_(scheme.input_zero_point)

        on(store)(folder)
        if (folder / _OWN).exists():  # torch-int8 tells them once more
            with editing(folder / _OWN) as listed:
                for module, (low, high) in found.items():
                    listed["modules"][module].update(low=low, high=high)

    def manifest(values: dict[str, Any]) -> None:
        for module, ends in wrong(values).items():
            tell(values, module, ends)

    return {"change": change, "manifest": manifest}


def _times(module: str, low: float, high: float) -> Ranges:
    def wrong(values: dict[str, Any]) -> dict[str, Range]:
        ends = told(values, module)
        return {module: (low * ends[0], high * ends[1])}

    return wrong


def _exchanged(one: str, other: str) -> Ranges:
    return lambda values: {one: told(values, other), other: told(values, one)}


def _all_times(factor: float) -> Ranges:
    """Every range, as of a calibration on recordings at another volume or in other units."""

    def wrong(values: dict[str, Any]) -> dict[str, Range]:
        static = [g for g in values["quantization"] if g["scheme"] == "static-int8"]
        return {
            module: (factor * group["parameters"]["low"], factor * group["parameters"]["high"])
            for group in static
            for module in group["modules"]
        }

    return wrong


def _manifest_only(values: dict[str, Any]) -> None:
    low, high = told(values, _FC1)
    tell(values, _FC1, (low, 1.5 * high))


def _method(values: dict[str, Any]) -> None:
    values["calibration"]["method"] = "minmax"


def _zero_in_the_product(g: Edited) -> None:
    """The product takes away 128, and the codes have another zero point."""
    node = g.of("MatMulIntegerToFloat")[2]
    g.feed(node, node.input[4], g.constant(128, np.uint8))


def _scale_in_the_product(g: Edited) -> None:
    """The product multiplies with a scale that another module's codes have."""
    first, second = g.of("MatMulIntegerToFloat")[1], g.of("MatMulIntegerToFloat")[5]
    assert first.input[2] != second.input[2]
    g.feed(first, first.input[2], second.input[2])


def _padded_with_zero_codes(g: Edited) -> None:
    """Padding that is code 0, which is not the code of zero."""
    node = g.of("Pad")[-1]
    g.feed(node, node.input[2], g.constant(0, np.uint8))


def _silent(tensors: Tensors) -> None:
    """Scales as of observers that saw nothing: a range of 0 to 1."""
    for name in [name for name in tensors if name.endswith("input_scale")]:
        tensors[name].fill_(1 / 255)
        tensors[name.replace("_scale", "_zero_point")].fill_(0)


def _symmetric(tensors: Tensors) -> None:
    """Zero points of 128 under scales of the asymmetric range."""
    for name in [name for name in tensors if name.endswith("input_zero_point")]:
        tensors[name].copy_(torch.full_like(tensors[name], 128))


add = PLANTS.add
add(
    "input-scale-up-5-percent",
    "tiny/torch-mixed",
    "subtle",
    "fc1.input_scale",
    _scaled(_FC1, 1.05),
)
add("input-scale-doubled", "tiny/onnx-mixed", "medium", "fc2.input_scale", _scaled(_FC2, 2))
add("input-scale-doubled-conv", "tiny/aoti-mixed", "medium", "conv2", _scaled(_CONV, 2))
add("input-zero-point-up-1", "tiny/onnx-mixed", "subtle", "fc1.input_zero", _moved(_FC1, 1))
add("input-zero-point-down-1", "tiny/aoti-mixed", "subtle", "fc1.input_zero", _moved(_FC1, -1))
add("input-zero-point-up-8", "tiny/torch-mixed", "medium", "fc2.input_zero", _moved(_FC2, 8))
add("input-zero-point-down-8", "tiny/onnx-mixed", "medium", "conv2", _moved(_CONV, -8))
add("input-ranges-swapped", "tiny/aoti-mixed", "medium", "fc1|fc2", _swapped(_FC1, _FC2))
add("input-ranges-never-observed", "tiny/torch-mixed", "severe", "input_scale", on(_silent))
add("input-zero-points-128", "tiny/aoti-mixed", "severe", "input_zero_point", on(_symmetric))
add(
    "range-changed-in-the-manifest",
    "tiny/onnx-mixed",
    "latent",
    "fc1.input_scale",
    manifest=_manifest_only,
)
add("calibration-method", "tiny/torch-mixed", "latent", "calibration", manifest=_method)
add(
    "calibrated-twice-too-wide",
    "tiny/onnx-mixed",
    "subtle",
    "fc1",
    **_calibrated(_times(_FC1, 2, 2)),
)
add(
    "calibrated-half-as-wide",
    "tiny/torch-mixed",
    "medium",
    "fc1",
    **_calibrated(_times(_FC1, 0.5, 0.5)),
)
add(
    "calibrated-without-negative-values",
    "tiny/aoti-mixed",
    "medium",
    "fc1",
    **_calibrated(_times(_FC1, 0, 1)),
)
add(
    "calibrated-ranges-swapped",
    "tiny/aoti-mixed",
    "medium",
    "fc1|fc2",
    **_calibrated(_exchanged(_FC1, _FC2)),
)
add(
    "calibrated-ranges-swapped-conv",
    "tiny/torch-mixed",
    "severe",
    "conv2|fc1",
    **_calibrated(_exchanged(_CONV, _FC1)),
)
add(
    "calibrated-at-another-volume",
    "tiny/torch-mixed",
    "medium",
    "range",
    **_calibrated(_all_times(3)),
)
add(
    "static-zero-point-in-the-product",
    "tiny/onnx-mixed",
    "severe",
    "faithful|encoder",
    on_graph("encoder_model", _zero_in_the_product),
)
add(
    "static-scale-in-the-product",
    "tiny/onnx-mixed",
    "medium",
    "faithful|encoder",
    on_graph("encoder_model", _scale_in_the_product),
)
add(
    "static-padding-of-code-zero",
    "tiny/onnx-mixed",
    "subtle",
    "faithful|encoder|conv",
    on_graph("encoder_model", _padded_with_zero_codes),
)
