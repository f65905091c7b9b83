"""Checks of single ONNX files: versions, operators, and the place of every weight."""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from exporter.doctor.finding import Finding
from exporter.doctor.folder import Folder
from exporter.doctor.values import read
from exporter.formats.onnx_reader import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Model, Place, Tensor
from exporter.system.progress import shown_bytes

# onnxruntime 1.18 (May 2024) to 1.20, which distributions and browsers still ship.
# Source: https://onnxruntime.ai/docs/reference/compatibility.html
_COMMON_IR, _COMMON_OPSET = 10, 21
_DOMAINS = frozenset(
    {"", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
_AGAIN = "Download the graph's data file again, under the name that the graph gives it."
_REQUANTIZE = "Quantize again, from finite weights."
_UNUSED_FROM = 0.01
_LARGE_ELEMENTS = 1 << 14
_CONVERTED = frozenset({"Cast", "Gather"})
_SCALE_BYTES = 4 << 20
_MOST_SCALES = 4096


def versions(folder: Folder) -> Iterator[Finding]:
    """Find graphs newer than the installed onnxruntime, or than common ones."""
    ir, opset, runtime = _newest()
    for model in folder.models.values():
        theirs = model.opsets.get("", 0)
        what = (
            f"IR version {model.ir_version} and opset {theirs}; onnxruntime {runtime} supports "
            f"{ir} and {opset}, 1.18 to 1.20 support {_COMMON_IR} and {_COMMON_OPSET}"
        )
        fix = f"Export again with opset {_COMMON_OPSET} or less (optimum-cli: --opset)."
        if model.ir_version > ir or theirs > opset:
            yield Finding("problem", model.name, what, fix)
        elif model.ir_version > _COMMON_IR or theirs > _COMMON_OPSET:
            yield Finding("warning", model.name, what, fix)


@cache
def _newest() -> tuple[int, int, str]:
    """Return the newest IR version and opset that the installed onnxruntime accepts."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    def limit(ir: int, opset: int, pattern: str) -> int:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(
                _smallest(ir, opset), options, providers=["CPUExecutionProvider"]
            )
        except (raised.Fail, raised.InvalidGraph, raised.InvalidProtobuf) as error:
            if match := re.search(pattern, str(error)):
                return int(match[1])
        return 1 << 31  # the runtime has no limit

    ir = limit(1 << 30, 8, r"max supported IR version: (\d+)")
    return ir, limit(8, 1 << 30, r"is till opset (\d+)"), onnxruntime.__version__


def _smallest(ir: int, opset: int) -> bytes:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir
    data: bytes = model.SerializeToString()
    return data


def operators(folder: Folder) -> Iterator[Finding]:
    """Find operators that a plain onnxruntime lacks."""
    for model in folder.models.values():
        foreign = {
            f"{node.domain}.{node.op}"
            for node in model.nodes()
            if node.domain not in _DOMAINS | model.functions
        }
        if foreign:
            what = (
                f"uses operators that onnxruntime does not have: {', '.join(sorted(foreign)[:3])}"
            )
            fix = "Export again without custom operators, which need a library of native code."
            yield Finding("problem", model.name, what, fix)


def weights(folder: Folder) -> Iterator[Finding]:
    """Find weights that are missing or cut off; one finding for each reason."""
    for model in folder.models.values():
        wrong: dict[str, list[str]] = defaultdict(list)
        for tensor in model.tensors():
            if reason := _misplaced(folder, model, tensor):
                wrong[reason].append(tensor.name)
        for reason, names in wrong.items():
            what = f"{len(names)} weights, {names[0][:60]!r} first: {reason}"
            yield Finding("problem", model.name, what, _AGAIN)
        yield from _overlapping(model)


def _misplaced(folder: Folder, model: Model, tensor: Tensor) -> str | None:
    """Return why a weight's values cannot be read, or None."""
    wanted = tensor.size_bytes
    if not tensor.external:
        inside = tensor.inside.length if tensor.inside else wanted
        fits = wanted in (None, inside) or not inside
        return None if fits else "their bytes do not match type and shape"
    place = located(model, tensor)
    if place is None:
        return "the location of their external data is invalid"
    if ".." in PurePosixPath(place.file).parts or PurePosixPath(place.file).is_absolute():
        return f"outside the folder, in {place.file[:80]}"
    if place.file not in folder.files:
        return f"{place.file[:80]} is missing, or a link, or not a file"
    if place.offset + place.length > folder.files[place.file]:
        return f"{place.file[:80]} is too short: it is cut off, or of another export"
    return None if wanted in (None, place.length) else "their bytes do not match type and shape"


def located(model: Model, tensor: Tensor) -> Place | None:
    """Return the place of a weight's values; None if it is invalid, or values are in fields."""
    if not tensor.external:
        return tensor.inside
    entries = dict(tensor.told)
    offset, length = entries.get("offset") or "0", entries.get("length") or str(tensor.size_bytes)
    name = entries.get("location", "").replace("\\", "/")
    plain = all(text.isascii() and text.isdecimal() and len(text) < 20 for text in (offset, length))
    if not plain or not name or "\0" in name or len(entries) != len(tensor.told):
        return None
    file = name if name.startswith("/") else str(PurePosixPath(model.name).parent / name)
    return Place(file, int(offset), int(length))


def _overlapping(model: Model) -> Iterator[Finding]:
    """Find weights that partly overlap; the very same place is sharing."""
    places = {
        (place.file, place.offset, place.offset + place.length): tensor.name
        for tensor in model.tensors()
        if tensor.external and tensor.elements and (place := located(model, tensor))
    }
    file, end, before = "", 0, ""
    for where, name in sorted(places.items()):
        if where[0] == file and where[1] < end:
            what = f"{name[:60]!r} partly overlaps {before[:60]!r}"
            fix = "Export again: one overwrites the other."
            yield Finding("problem", model.name, what, fix)
            return
        file, _, end = where
        before = name


def unused(folder: Folder) -> Iterator[Finding]:
    """Find weights that no node uses, from 1 % of the bytes on."""
    for model in folder.models.values():
        used = {name for node in model.nodes() for name in node.inputs}
        used |= {name for graph, _ in model.graphs() for name in graph.outputs}
        sizes = {tensor.name: tensor.size_bytes or 0 for tensor in model.tensors()}
        idle = [name for name in sizes if name not in used]
        wasted = sum(sizes[name] for name in idle)
        if wasted > _UNUSED_FROM * sum(sizes.values()):
            what = f"{len(idle)} unused weights: {shown_bytes(wasted)}"
            fix = "Clean it up with onnxruntime's optimizer or onnxslim, or export again."
            yield Finding("warning", model.name, what, fix)


def float_types(folder: Folder) -> Iterator[Finding]:
    """Find weights in types that CPUs do not multiply; storing and casting them is fine."""
    names = {FLOAT64: "float64", FLOAT16: "float16", BFLOAT16: "bfloat16"}
    costs = {
        FLOAT64: "twice the bytes of float32 and half the speed, without better text",
        FLOAT16: "on CPUs it is converted to float32, at every step or once in memory",
        BFLOAT16: "few of onnxruntime's CPU kernels support it",
    }
    for model in folder.models.values():
        taken = {n for node in model.nodes() if node.op not in _CONVERTED for n in node.inputs}
        sizes: dict[int, int] = defaultdict(int)
        for tensor in model.tensors():
            large = tensor.dtype in names and tensor.elements >= _LARGE_ELEMENTS
            if large and tensor.name in taken:
                sizes[tensor.dtype] += tensor.size_bytes or 0
        for dtype, size in sizes.items():
            what = f"{shown_bytes(size)} of weights in {names[dtype]}: {costs[dtype]}"
            fix = "Use the float32 or the int8 export on CPUs, this one on GPUs."
            yield Finding("warning", model.name, what, fix)


def scales(folder: Folder) -> Iterator[Finding]:
    """Find scales of quantized weights that are empty, zero or not finite."""
    for model in folder.models.values():
        named = _scale_names(model)
        scale_tensors = [tensor for tensor in model.tensors() if tensor.name in named]
        for tensor in scale_tensors[:_MOST_SCALES]:
            if wrong := _unsound(folder, model, tensor):
                what = f"the scale {tensor.name[:60]!r} {wrong}"
                yield Finding("problem", model.name, what, _REQUANTIZE)
                break


def _scale_names(model: Model) -> set[str]:
    """Return the inputs that are scales, by the operators' definitions."""
    inputs = {
        **{"DequantizeLinear": (1,), "QuantizeLinear": (1,), "DynamicQuantizeMatMul": (2,)},
        **{"MatMulIntegerToFloat": (2, 3), "MatMulNBits": (2,), "QLinearMatMul": (1, 4, 6)},
    }
    names = {
        node.inputs[index]
        for node in model.nodes()
        for index in inputs.get(node.op, ())
        if index < len(node.inputs)
    }
    # onnxruntime's quantizer multiplies by the scale in a node of its own, named after the weight.
    weights = {n for node in model.nodes() if node.op.endswith("Integer") for n in node.inputs[1:2]}
    return names | {f"{name.removesuffix('_quantized')}_scale" for name in weights}


def _unsound(folder: Folder, model: Model, tensor: Tensor) -> str | None:
    """Return what is wrong with a scale, or None, also where its values cannot be read."""
    if not tensor.elements:
        return "is empty"
    place = located(model, tensor)
    if tensor.dtype not in (FLOAT32, FLOAT16) or place is None or not folder.holds(place):
        return None
    if place.length > _SCALE_BYTES:
        return None
    dtype: np.dtype[Any] = np.dtype("<f4" if tensor.dtype == FLOAT32 else "<f2")
    values = read(folder.path / place.file, place.offset, place.length, dtype)
    if not np.isfinite(values).all():
        return "holds NaN or infinity"
    return "is all zeros" if values.size and not values.any() else None


CHECKS = (versions, operators, weights, unused, float_types, scales)
