"""ONNX files as such: versions, operators, and whether every weight is where the graph says."""

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

# onnxruntime 1.18, of May 2024, to 1.20: what distributions and browsers still have.
# Source: https://onnxruntime.ai/docs/reference/compatibility.html
_COMMON_IR, _COMMON_OPSET = 10, 21
_DOMAINS = frozenset(
    {"", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
_AGAIN = "Fetch the data file again, whole; its name and the graph's belong together."
_REQUANTIZE = "Quantize again, from weights that are numbers."
_UNUSED_FROM = 0.01
_LARGE_ELEMENTS = 1 << 14
_CONVERTED = frozenset({"Cast", "Gather"})
_SCALE_BYTES = 4 << 20
_MOST_SCALES = 4096


def versions(folder: Folder) -> Iterator[Finding]:
    """Graphs newer than the runtime that is here, or than those that are common."""
    ir, opset, runtime = _newest()
    for model in folder.models.values():
        theirs = model.opsets.get("", 0)
        told = (
            f"IR version {model.ir_version} and opset {theirs}; onnxruntime {runtime} takes "
            f"{ir} and {opset}, 1.18 to 1.20 take {_COMMON_IR} and {_COMMON_OPSET}"
        )
        mend = f"Export again with opset {_COMMON_OPSET} or less (optimum-cli: --opset)."
        if model.ir_version > ir or theirs > opset:
            yield Finding("problem", model.name, told, mend)
        elif model.ir_version > _COMMON_IR or theirs > _COMMON_OPSET:
            yield Finding("warning", model.name, told, mend)


@cache
def _newest() -> tuple[int, int, str]:
    """The newest IR version and opset of the onnxruntime that is here, as it says itself."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    def told(ir: int, opset: int, pattern: str) -> int:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(
                _smallest(ir, opset), options, providers=["CPUExecutionProvider"]
            )
        except (raised.Fail, raised.InvalidGraph, raised.InvalidProtobuf) as error:
            if found := re.search(pattern, str(error)):
                return int(found[1])
        return 1 << 31  # a runtime that sets no limit

    ir = told(1 << 30, 8, r"max supported IR version: (\d+)")
    return ir, told(8, 1 << 30, r"is till opset (\d+)"), onnxruntime.__version__


def _smallest(ir: int, opset: int) -> bytes:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = ir
    data: bytes = made.SerializeToString()
    return data


def operators(folder: Folder) -> Iterator[Finding]:
    """Operators that no plain onnxruntime has."""
    for model in folder.models.values():
        foreign = {
            f"{node.domain}.{node.op}"
            for node in model.nodes()
            if node.domain not in _DOMAINS | model.functions
        }
        if foreign:
            what = (
                f"uses operators that onnxruntime does not bring: {', '.join(sorted(foreign)[:3])}"
            )
            mend = "Export again without custom operators: their library would have to be run."
            yield Finding("problem", model.name, what, mend)


def weights(folder: Folder) -> Iterator[Finding]:
    """Weights that are not, or not whole, where the graph says: one finding for each reason."""
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
    """Why a weight's values cannot be read, if they cannot."""
    wanted = tensor.size_bytes
    if not tensor.external:
        inside = tensor.inside.length if tensor.inside else wanted
        fits = wanted in (None, inside) or not inside
        return None if fits else "fewer or more bytes than type and shape take"
    place = located(model, tensor)
    if place is None:
        return "their place outside the graph makes no sense"
    if ".." in PurePosixPath(place.file).parts or PurePosixPath(place.file).is_absolute():
        return f"outside the folder, in {place.file[:80]}"
    if place.file not in folder.files:
        return f"{place.file[:80]} is missing, or a link, or no file"
    if place.offset + place.length > folder.files[place.file]:
        return f"{place.file[:80]} ends before them: it is cut off, or another export's"
    return None if wanted in (None, place.length) else "other bytes than type and shape take"


def located(model: Model, tensor: Tensor) -> Place | None:
    """Where a weight's values lie; None where that makes no sense, or they are in small fields."""
    if not tensor.external:
        return tensor.inside
    told = dict(tensor.told)
    offset, length = told.get("offset") or "0", told.get("length") or str(tensor.size_bytes)
    name = told.get("location", "").replace("\\", "/")
    plain = all(text.isascii() and text.isdecimal() and len(text) < 20 for text in (offset, length))
    if not plain or not name or "\0" in name or len(told) != len(tensor.told):
        return None
    file = name if name.startswith("/") else str(PurePosixPath(model.name).parent / name)
    return Place(file, int(offset), int(length))


def _overlapping(model: Model) -> Iterator[Finding]:
    """Weights that lie partly over others; wholly the same place is sharing."""
    places = {
        (place.file, place.offset, place.offset + place.length): tensor.name
        for tensor in model.tensors()
        if tensor.external and tensor.elements and (place := located(model, tensor))
    }
    file, end, before = "", 0, ""
    for where, name in sorted(places.items()):
        if where[0] == file and where[1] < end:
            what = f"{name[:60]!r} lies partly over {before[:60]!r}"
            mend = "Export again: one of the two is overwritten."
            yield Finding("problem", model.name, what, mend)
            return
        file, _, end = where
        before = name


def unused(folder: Folder) -> Iterator[Finding]:
    """Weights that nothing takes, where they are more than crumbs."""
    for model in folder.models.values():
        used = {name for node in model.nodes() for name in node.inputs}
        used |= {name for graph, _ in model.graphs() for name in graph.outputs}
        sizes = {tensor.name: tensor.size_bytes or 0 for tensor in model.tensors()}
        idle = [name for name in sizes if name not in used]
        wasted = sum(sizes[name] for name in idle)
        if wasted > _UNUSED_FROM * sum(sizes.values()):
            what = f"{len(idle)} weights that nothing uses: {shown_bytes(wasted)}"
            mend = "Save it again after onnxruntime's or onnxslim's clean-up, or export again."
            yield Finding("warning", model.name, what, mend)


def float_types(folder: Folder) -> Iterator[Finding]:
    """Weights in types that a CPU does not multiply by itself; to store them so is no fault."""
    names = {FLOAT64: "float64", FLOAT16: "float16", BFLOAT16: "bfloat16"}
    costs = {
        FLOAT64: "twice the bytes of float32, and half the speed, for no better text",
        FLOAT16: "CPUs convert it to float32 at every step, or onnxruntime once, in memory",
        BFLOAT16: "onnxruntime's CPU kernels take hardly any of it",
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
            mend = "For a CPU take the float32 or the int8 export; leave this one to GPUs."
            yield Finding("warning", model.name, what, mend)


def scales(folder: Folder) -> Iterator[Finding]:
    """Scales of quantized weights that no weight can have."""
    for model in folder.models.values():
        named = _scale_names(model)
        found = [tensor for tensor in model.tensors() if tensor.name in named]
        for tensor in found[:_MOST_SCALES]:
            if wrong := _unsound(folder, model, tensor):
                what = f"the scale {tensor.name[:60]!r} {wrong}"
                yield Finding("problem", model.name, what, _REQUANTIZE)
                break


def _scale_names(model: Model) -> set[str]:
    """The inputs of operators that are scales, by the operators' definitions."""
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
    # onnxruntime's quantizer multiplies with the scale afterwards, and names it like the weight.
    weights = {n for node in model.nodes() if node.op.endswith("Integer") for n in node.inputs[1:2]}
    return names | {f"{name.removesuffix('_quantized')}_scale" for name in weights}


def _unsound(folder: Folder, model: Model, tensor: Tensor) -> str | None:
    """What is wrong with a scale, as far as its values can be looked at."""
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
    return "is zero throughout" if values.size and not values.any() else None


CHECKS = (versions, operators, weights, unused, float_types, scales)
