"""Checks of what was quantized: products of activations, convolutions, matrices with one scale."""

from collections.abc import Iterator

from exporter.doctor.finding import Finding
from exporter.doctor.folder import Folder
from exporter.formats.onnx_reader import INT8, Graph, Model, Node, Tensor

# The indexes of the two factors in each operator's inputs. The first is an activation in all.
_PRODUCTS = {
    **{"MatMulInteger": (0, 1), "DynamicQuantizeMatMul": (0, 1), "MatMulIntegerToFloat": (0, 1)},
    **{"QLinearMatMul": (0, 3)},
}
_SCALES = {"DynamicQuantizeMatMul": 2, "MatMulIntegerToFloat": 3, "QLinearMatMul": 4}
_CONVOLUTIONS = frozenset({"ConvInteger", "QLinearConv"})
_LARGE_ELEMENTS = 1 << 12
_MATMUL_ONLY = (
    "Quantize again with op_types_to_quantize=['MatMul'] and "
    "extra_options={'MatMulConstBOnly': True}; exporter's onnx-int8 does so."
)


def activation_products(folder: Folder) -> Iterator[Finding]:
    """Find int8 products of two activations, which optimum's quantizer makes in attention."""
    for model in folder.models.values():
        count = sum(_of_activations(node, scope) for node, scope in _seen(model))
        if count:
            what = (
                f"{count} products of two activations (attention) are quantized: the text may get "
                "worse, and quantizing both in every call takes time"
            )
            yield Finding("problem", model.name, what, _MATMUL_ONLY)


def convolutions(folder: Folder) -> Iterator[Finding]:
    """Find convolutions in int8. With signed weights, ConvInteger has no fast kernel.

    Whisper base's second one, one thread of a Zen 5 CPU, onnxruntime 1.31: 12 ms in float32, 55
    with int8 weights, 8 with uint8.
    """
    for model in folder.models.values():
        dtypes = {tensor.name: tensor.dtype for tensor in model.tensors()}
        signed, others = 0, 0
        for node, scope in _seen(model):
            if node.op == "ConvInteger" and dtypes.get("".join(node.inputs[1:2])) == INT8:
                signed += 1
            else:
                others += _is_convolution(node, scope)
        if signed:
            what = (
                f"{signed} convolutions are ConvInteger with int8 weights: several times slower "
                "than float32 on CPUs, and missing in older runtimes and onnxruntime-web"
            )
            yield Finding("warning", model.name, what, _MATMUL_ONLY)
        if others:
            what = (
                f"{others} convolutions are quantized: this coarsens all features and gains little"
            )
            yield Finding("note", model.name, what, _MATMUL_ONLY)


def single_scales(folder: Folder) -> Iterator[Finding]:
    """Find matrices whose columns share one scale."""
    for model in folder.models.values():
        tensors = {tensor.name: tensor for tensor in model.tensors()}
        coarse = {
            weight.name
            for node in model.nodes()
            if (weight := _weight(node, tensors)) and _is_single(node, weight, tensors)
        }
        if coarse:
            what = f"{len(coarse)} matrices have one scale each, not one per column"
            fix = "Quantize again with per_channel=True (optimum-cli: --per_channel)."
            yield Finding("warning", model.name, what, fix)


def _weight(node: Node, tensors: dict[str, Tensor]) -> Tensor | None:
    """Return the large int8 constant that a node takes, or None."""
    known = node.op in _PRODUCTS or node.op == "ConvInteger" or node.op == "DequantizeLinear"
    places = _PRODUCTS.get(node.op, (0, 1))
    index = 0 if node.op == "DequantizeLinear" else places[1]
    if not known or index >= len(node.inputs):
        return None
    weight = tensors.get(node.inputs[index])
    return (
        weight if weight and len(weight.shape) > 1 and weight.elements >= _LARGE_ELEMENTS else None
    )


def _is_single(node: Node, weight: Tensor, tensors: dict[str, Tensor]) -> bool:
    named = f"{weight.name.removesuffix('_quantized')}_scale"
    index = _SCALES.get(node.op, 1 if node.op == "DequantizeLinear" else None)
    if index is not None and index < len(node.inputs):
        named = node.inputs[index]
    return named in tensors and tensors[named].elements == 1


class _Scope:
    """The constants that a graph's nodes see, and the node that computes each value."""

    def __init__(self, graph: Graph, above: "_Scope | None") -> None:
        self._above = above
        self._made = {output: node for node in graph.nodes for output in node.outputs}
        self._constant: set[str] = set(graph.tensors)
        for node in graph.nodes:
            inputs = [name for name in node.inputs if name]
            folded = inputs and not node.branches and all(map(self.is_constant, inputs))
            if node.op == "Constant" or folded:
                self._constant.update(node.outputs)

    def is_constant(self, name: str) -> bool:
        """Return True for a weight, or a value computed from weights alone."""
        return name in self._constant or (self._above is not None and self._above.is_constant(name))

    def is_dequantized(self, name: str) -> bool:
        """Return True if a value is the output of DequantizeLinear."""
        if name in self._made:
            return self._made[name].op == "DequantizeLinear"
        return self._above is not None and self._above.is_dequantized(name)


def _seen(model: Model) -> Iterator[tuple[Node, _Scope]]:
    """Yield every node, of subgraphs too, with its scope."""
    scopes: dict[int, _Scope] = {}
    for graph, around in model.graphs():
        above = scopes[id(around[-1])] if around else None
        scope = scopes[id(graph)] = _Scope(graph, above)
        for node in graph.nodes:
            yield node, scope


def _of_activations(node: Node, scope: _Scope) -> bool:
    """Return True if both factors of an int8 product vary, also one between Q/DQ nodes."""
    if node.op in _PRODUCTS:
        factors = [node.inputs[i] for i in _PRODUCTS[node.op] if i < len(node.inputs)]
    elif node.op == "MatMul":
        factors = [name for name in node.inputs if scope.is_dequantized(name)]
    else:
        return False
    return len(factors) == 2 and not any(map(scope.is_constant, factors))


def _is_convolution(node: Node, scope: _Scope) -> bool:
    back = node.op == "Conv" and len(node.inputs) > 1 and scope.is_dequantized(node.inputs[1])
    return node.op in _CONVOLUTIONS or back


CHECKS = (activation_products, convolutions, single_scales)
