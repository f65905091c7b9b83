"""How onnx-int8 rounds, its stored weights beside the checkpoint's, and its graphs in float.

A graph that does not round its activations differs from the original, run with the same weights,
by the rounding of float32 alone. So any change of a graph or of a weight shows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporter.artifact.manifest import File, Manifest
from exporter.artifact.store import read_verified
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families import read_config
from exporter.families.base import Family
from exporter.families.graph import GraphFunction, parameter_names
from exporter.formats.onnx_reader import read_tensors
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.simulate import Round, Rounding
from exporter.runtime.onnx import graph_name
from exporter.runtime.onnx.external_data import require_sealed, sealed_beside
from exporter.targets.inspection import StoredWeight, Unrounded, plan_of
from exporter.targets.onnx.graphs.builder import Form, prepare
from exporter.targets.onnx.layouts import CONFIG
from exporter.targets.onnx.options import Options
from exporter.targets.onnx.session import open_session

EXACT = True
_PREFIX = "tap:"
_INPUT_ZERO = ".input_zero_point"
_LARGEST = 255
_IN_FLOAT32 = 1  # an accuracy level of MatMulNBits


def rounding(
    manifest: Manifest, scheme: IntegerScheme | None, *, graph: str, once: bool, narrow: bool
) -> Rounding:
    """Return the rounding of `DynamicQuantizeLinear` or `QuantizeLinear`, and of an int8 cache.

    `MatMulNBits` of our accuracy level rounds each group of a row.
    """
    inputs = None if scheme is None else _INPUTS[scheme.name](scheme)
    return Rounding(inputs, window_cache=_channels if narrow else None, unfolded=False)


def _unsigned(states: Tensor) -> Tensor:
    """Round to u8 with one scale, as ONNX's specification of `DynamicQuantizeLinear`."""
    low, high = states.amin().clamp_max(0.0), states.amax().clamp_min(0.0)
    step = (high - low) / _LARGEST
    if not step:
        return torch.zeros_like(states)
    zero = (-low / step).round().clamp(0, _LARGEST)
    return ((states / step).round() + zero).clamp(0, _LARGEST).sub(zero).mul(step)


_INPUTS: dict[str, Callable[[Any], Round]] = {
    "dynamic-int8": lambda _: _unsigned,
    "static-int8": lambda scheme: scheme.rounded,
    "weight-int4": lambda scheme: scheme.rounded,
    "weight-int8": lambda scheme: scheme.rounded,
}


def _channels(states: Tensor, heads: int) -> Tensor:
    """Round keys or values [windows, length, width] to int8, with a window's scale per channel."""
    peaks = states.square().amax(1, keepdim=True).sqrt()
    scale = (peaks / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (states / scale).round().mul(scale)


def stored(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
) -> Iterator[StoredWeight]:
    """Yield every initializer of every graph that has a name of the model's."""
    from exporter.targets.onnx.target import _form

    form = _form(Options.model_validate(manifest.options))
    yield from stored_as(form, folder, manifest, checkpoint, family)


def stored_as(
    form: Form, folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
) -> Iterator[StoredWeight]:
    """Yield the initializers of graphs that were built in a form."""
    plan = plan_of(folder, manifest)
    planned = {graph.name for graph in form.graphs(checkpoint, family)}
    for file in _graphs(manifest):
        name = graph_name(Path(file.path))
        if name not in planned:
            continue
        prepared = prepare(form, plan, checkpoint, family, name)
        names = parameter_names(prepared.graph, prepared.model)
        there = _initializers(folder, file, manifest)
        held = {name for own, name in names.items() if own in there}
        for own, stored_name in names.items():
            expected = prepared.read(stored_name)
            found = there.pop(own, None)
            if found is None and (prepared.graph.weights_from or stored_name in held):
                continue  # not used by such a graph, or there under the name of another module
            expected = expected if found is None else expected.to(found.dtype)
            yield StoredWeight(file.path, stored_name, found, expected)
        for own, found in there.items():
            yield StoredWeight(file.path, own, found, None)


def _initializers(folder: Path, file: File, manifest: Manifest) -> dict[str, Tensor]:
    """Return a graph's weights by name, which are in sealed files beside it."""
    import onnx_ir as ir

    path = folder / file.path
    require_sealed(path, read_verified(folder, file), sealed_beside(path, folder, manifest.files))
    model = ir.load(path)
    found = {}
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            found[name] = torch.from_numpy(value.const_value.numpy().copy())
    return found


def unrounded(folder: Path, manifest: Manifest, family: Family, threads: int) -> Unrounded:
    """Open every graph with float products in place of those of integers, and tapped norms."""
    opened = Unrounded(None)
    lent, config = lent_graphs(folder, manifest), read_config(folder / CONFIG, manifest.family)
    model = family.skeleton(config)
    cut = {graph.name: graph for graph in family.graphs(model, "dynamic")}
    functions: dict[str, GraphFunction] = {}
    others: dict[str, GraphFunction] = {}
    for file in _graphs(manifest):
        path, name = folder / file.path, graph_name(Path(file.path))
        names = parameter_names(cut[name], model) if name in cut else {}
        content = _in_float(read_verified(folder, file), names)
        function = _Tapped(open_session(path, content, threads), opened)
        (others if file.path in lent else functions)[name] = function
    opened.others = others
    opened.model = family.assemble(folder, functions)
    return opened


def others(folder: Path, manifest: Manifest, threads: int) -> dict[str, GraphFunction]:
    """Open the graphs whose weights ours use: optimum and transformers.js load them."""
    lent = lent_graphs(folder, manifest)
    return {
        graph_name(Path(file.path)): open_session(
            folder / file.path, read_verified(folder, file), threads
        )
        for file in _graphs(manifest)
        if file.path in lent
    }


def lent_graphs(folder: Path, manifest: Manifest) -> set[str]:
    """Return the paths of the graphs whose weights other graphs use."""
    graphs = {file.path: read_verified(folder, file) for file in _graphs(manifest)}
    used: set[str] = set()
    for path, content in graphs.items():
        tensors = [dict(t.told) for t in read_tensors(content, path) if t.external]
        used |= {each.get("location", "") for each in tensors} - {f"{Path(path).name}_data"}
    return {path for path in graphs if f"{Path(path).name}_data" in used}


def _graphs(manifest: Manifest) -> list[File]:
    return [file for file in manifest.files if file.path.endswith(".onnx")]


class _Tapped:
    """A session whose further outputs are collected, and hidden from its caller."""

    def __init__(self, session: Any, opened: Unrounded) -> None:
        self._session = session
        self._opened = opened
        self.device = session.device

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        outputs = self._session(inputs)
        for name in [name for name in outputs if name.startswith(_PREFIX)]:
            self._opened.keep(name.removeprefix(_PREFIX), outputs.pop(name))
        return outputs if wanted is None else {name: outputs[name] for name in wanted}


def _in_float(content: bytes, names: Mapping[str, str]) -> bytes:
    """Return a graph with float products, whose layer norms are outputs too.

    `DynamicQuantizeLinear` becomes the identity with a step of 1 and a zero point of 0,
    `QuantizeLinear` loses its rounding, and products of integers become those of their operands in
    float: whatever stands around them is unchanged, but for the type of padding. `MatMulNBits`
    multiplies in float at another accuracy level.
    `names` maps the weights to the model's.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_model_from_string(content)
    for graph in _all_graphs(model.graph):
        nodes: list[Any] = []
        for node in graph.node:
            nodes += _replaced(node, helper, TensorProto)
        del graph.node[:]
        graph.node.extend(nodes)
    scales = {node.input[1]: node.output[0] for node in model.graph.node if _is_norm(node)}
    for weight, output in scales.items():
        module = names.get(weight, weight).removesuffix(".weight")
        model.graph.node.append(helper.make_node("Identity", [output], [_PREFIX + module]))
        info = helper.make_tensor_value_info(_PREFIX + module, TensorProto.FLOAT, None)
        model.graph.output.append(info)
    text: bytes = model.SerializeToString()
    return text


def _is_norm(node: Any) -> bool:
    named: bool = node.op_type == "LayerNormalization" and node.input[1].endswith(".weight")
    return named


def _all_graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and those in its nodes' branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_graphs(attribute.g)


def _replaced(node: Any, helper: Any, kinds: Any) -> list[Any]:
    """Return the nodes in float that stand for a node of integers; others are unchanged."""
    if node.op_type == "DynamicQuantizeLinear":
        codes, step, zero = node.output
        one = helper.make_tensor(f"{step}.value", kinds.FLOAT, [], [1.0])
        none = helper.make_tensor(f"{zero}.value", kinds.FLOAT, [], [0.0])
        return [
            helper.make_node("Identity", [node.input[0]], [codes]),
            helper.make_node("Constant", [], [step], value=one),
            helper.make_node("Constant", [], [zero], value=none),
        ]
    if node.op_type == "QuantizeLinear" and node.input[2].endswith(_INPUT_ZERO):  # no cache's
        states, step, zero = node.input
        (codes,) = node.output
        return [
            helper.make_node("Div", [states, step], [f"{codes}.steps"]),
            helper.make_node("Cast", [zero], [f"{codes}.zero"], to=kinds.FLOAT),
            helper.make_node("Add", [f"{codes}.steps", f"{codes}.zero"], [codes]),
        ]
    if node.op_type == "Pad" and len(node.input) > 2:
        padding = f"{node.output[0]}.padding"
        given = [*node.input]
        given[2] = padding
        padded = helper.make_node("Pad", given, node.output)
        return [helper.make_node("CastLike", [node.input[2], node.input[0]], [padding]), padded]
    if node.op_type == "MatMulInteger":
        return _float_product(node.input[:2], node.input[2:4], node.output[0], helper, kinds)
    if node.op_type == "MatMulIntegerToFloat":
        states, weight, step, scale, *zeros = node.input
        (result,) = node.output
        scaled = f"{result}.scaled" if len(zeros) > 2 else result
        nodes = _float_product([states, weight], zeros[:2], f"{result}.sums", helper, kinds)
        nodes.append(helper.make_node("Mul", [step, scale], [f"{result}.steps"]))
        nodes.append(helper.make_node("Mul", [f"{result}.sums", f"{result}.steps"], [scaled]))
        bias = [helper.make_node("Add", [scaled, each], [result]) for each in zeros[2:]]
        return [*nodes, *bias]
    if node.op_type == "MatMulNBits":
        (level,) = (each for each in node.attribute if each.name == "accuracy_level")
        level.i = _IN_FLOAT32
    return [node]


def _float_product(
    operands: Sequence[str], zeros: Sequence[str], result: str, helper: Any, kinds: Any
) -> list[Any]:
    """Return the nodes of a product in float of operands of integers around their zero points."""
    nodes, floats = [], []
    for place, name in enumerate(operands):
        own = f"{result}.operand{place}"
        nodes.append(helper.make_node("Cast", [name], [own], to=kinds.FLOAT))
        if place < len(zeros) and zeros[place]:
            nodes += [
                helper.make_node("Cast", [zeros[place]], [f"{own}.zero"], to=kinds.FLOAT),
                helper.make_node("Sub", [own, f"{own}.zero"], [f"{own}.centred"]),
            ]
            own = f"{own}.centred"
        floats.append(own)
    return [*nodes, helper.make_node("MatMul", floats, [result])]
