"""Read the structure of an ONNX graph: nodes, shapes, and places of weights, but no weights.

Field numbers are those of onnx.proto3; other fields are skipped.
Source: https://github.com/onnx/onnx/blob/v1.21.0/onnx/onnx.proto3
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

from exporter.formats.protobuf import Budget, DamagedError, Field, Wire

_MAX_DEPTH = 12
_MAX_RANK = 16
_EXTERNAL = 1
# Bits of a value by data type; values below 8 bits are packed.
_BITS = {
    **{1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64},
    **{14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4},
}
# The fields through which weights are reached, by message type.
_TO_TENSORS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
FLOAT32, INT8, FLOAT16, FLOAT64, BFLOAT16 = 1, 3, 10, 11, 16
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Place:
    """The bytes of values in the graph's file or in a file beside it."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A weight: type and shape, its place if it is inside the graph's file, and else `told`.

    `told` are the keys and values of ONNX's `external_data`, as they stand in the file.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    inside: Place | None
    told: tuple[tuple[str, str], ...]
    external: bool

    @property
    def elements(self) -> int:
        """The number of values."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int | None:
        """The bytes of its values; None for strings and unknown types."""
        bits = _BITS.get(self.dtype)
        return None if bits is None else -(-self.elements * bits // 8)


@dataclass(frozen=True)
class Node:
    """An operation; `branches` are the graphs inside it."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    branches: tuple["Graph", ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in order, weights by name, and the shapes of inputs and outputs in order."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


@dataclass(frozen=True)
class Model:
    """A file's graph and versions; `functions` are the domains of its own functions."""

    name: str
    ir_version: int
    opsets: dict[str, int]
    graph: Graph
    functions: frozenset[str]
    metadata: frozenset[str]

    def graphs(self) -> Iterator[tuple[Graph, tuple[Graph, ...]]]:
        """Yield every graph with its enclosing graphs, the outermost first."""
        yield from _nested(self.graph, ())

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes at any depth."""
        for graph, _ in self.graphs():
            yield from graph.nodes

    def tensors(self) -> Iterator[Tensor]:
        """Yield all weights at any depth."""
        for graph, _ in self.graphs():
            yield from graph.tensors.values()


def _nested(graph: Graph, around: tuple[Graph, ...]) -> Iterator[tuple[Graph, tuple[Graph, ...]]]:
    yield graph, around
    for node in graph.nodes:
        for branch in node.branches:
            yield from _nested(branch, (*around, graph))


def read_model(path: Path, name: str, budget: Budget) -> Model:
    """Read a graph's structure; `name` is the file's in its folder. Raises DamagedError."""
    with _opened(path, name, budget) as reader:
        return reader.model()


def read_tensors(graph: bytes, name: str) -> list[Tensor]:
    """Find every weight at any depth, those of functions, sparse weights and training included.

    `name` is the file's in its folder. Raises DamagedError.
    """
    return list(_Reader(Wire(graph, Budget()), name).tensors())


@contextmanager
def _opened(path: Path, name: str, budget: Budget) -> Iterator["_Reader"]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            msg = "an empty file"
            raise DamagedError(msg)
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield _Reader(Wire(data, budget), name)


@dataclass
class _Parts:
    """The parts of a graph that is being read."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Shape] = field(default_factory=dict)
    outputs: dict[str, Shape] = field(default_factory=dict)


class _Reader:
    """Reads the messages of onnx.proto3, with a method for each type."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire, self._name = wire, name

    def model(self) -> Model:
        version, graph = 0, None
        opsets: dict[str, int] = {}
        functions, metadata = set(), set()
        for each in self._wire.fields(self._wire.whole()):
            if each.number == 1:
                version = each.value
            elif each.number == 7:
                graph = self._graph(each, 0)
            elif each.number == 8:
                opsets |= self._opset(each)
            elif each.number == 14:
                metadata.add(self._texts(each).get(1, ""))
            elif each.number == 25:
                functions.add(self._texts(each, only=(10,)).get(10, ""))
        if graph is None or not version:
            msg = "no graph in it"
            raise DamagedError(msg)
        return Model(self._name, version, opsets, graph, frozenset(functions), frozenset(metadata))

    def tensors(self) -> Iterator[Tensor]:
        return self._below(self._wire.whole(), "ModelProto", 0)

    def _below(self, message: Field, kind: str, depth: int) -> Iterator[Tensor]:
        if depth > 3 * _MAX_DEPTH:  # a nested graph is three messages deep: graph, node, attribute
            msg = f"branches more than {_MAX_DEPTH} deep"
            raise DamagedError(msg)
        if kind == "TensorProto":
            yield self._tensor(message)
            return
        inner = _TO_TENSORS[kind]
        for each in self._wire.fields(message, inner):
            yield from self._below(each, inner[each.number], depth + 1)

    def _texts(self, message: Field, only: tuple[int, ...] = (1, 2)) -> dict[int, str]:
        fields = self._wire.fields(message)
        return {each.number: self._wire.text(each) for each in fields if each.number in only}

    def _opset(self, message: Field) -> dict[str, int]:
        domain, version = "", 0
        for each in self._wire.fields(message):
            if each.number == 1:
                domain = self._wire.text(each)
            elif each.number == 2:
                version = each.value
        return {"" if domain == "ai.onnx" else domain: version}

    def _graph(self, message: Field, depth: int) -> Graph:
        if depth > _MAX_DEPTH:
            msg = f"branches more than {_MAX_DEPTH} deep"
            raise DamagedError(msg)
        parts = _Parts()
        for each in self._wire.fields(message):
            if each.number == 1:
                self._node(each, depth, parts)
            elif each.number == 5:
                tensor = self._tensor(each)
                parts.tensors[tensor.name] = tensor
            elif each.number == 11:
                parts.inputs |= self._value(each)
            elif each.number == 12:
                parts.outputs |= self._value(each)
        inputs = {k: v for k, v in parts.inputs.items() if k not in parts.tensors}
        return Graph(tuple(parts.nodes), parts.tensors, inputs, parts.outputs)

    def _node(self, message: Field, depth: int, parts: _Parts) -> None:
        inputs, outputs, branches = [], [], []
        texts = {4: "", 7: ""}
        constants: list[Tensor] = []
        for each in self._wire.fields(message):
            if each.number == 1:
                inputs.append(self._wire.text(each))
            elif each.number == 2:
                outputs.append(self._wire.text(each))
            elif each.number in texts:
                texts[each.number] = self._wire.text(each)
            elif each.number == 5:
                for inner in self._wire.fields(each):
                    if inner.number in (6, 11):
                        branches.append(self._graph(inner, depth + 1))
                    elif inner.number == 5:
                        constants.append(self._tensor(inner))
        domain = "" if texts[7] == "ai.onnx" else texts[7]
        node = Node(texts[4], domain, tuple(inputs), tuple(outputs), tuple(branches))
        parts.nodes.append(node)
        # The value of a Constant node is a weight with the name of the node's output.
        parts.tensors |= {
            name: replace(tensor, name=name)
            for name, tensor in zip(outputs, constants, strict=False)
        }

    def _tensor(self, message: Field) -> Tensor:
        shape: list[int] = []
        dtype, name, external = 0, "", False
        inside = None
        external_data = []
        for each in self._wire.fields(message):
            if each.number == 1:
                shape += self._wire.numbers(each)
            elif each.number == 2:
                dtype = each.value
            elif each.number in (4, 9, 10):  # packed floats, raw bytes, packed doubles
                inside = Place(self._name, each.begin, each.end - each.begin)
            elif each.number == 8:
                name = self._wire.text(each)
            elif each.number == 13:
                pair = self._texts(each)
                external_data.append((pair.get(1, ""), pair.get(2, "")))
            elif each.number == 14:
                external = each.value == _EXTERNAL
        if len(shape) > _MAX_RANK or any(size >= 1 << 63 for size in shape):
            msg = f"a weight with the shape {shape[:4]}"
            raise DamagedError(msg)
        return Tensor(
            name, dtype, tuple(shape), inside, tuple(external_data), external or bool(external_data)
        )

    def _value(self, message: Field) -> dict[str, Shape]:
        name = ""
        shape: list[int | str | None] = []
        for each in self._wire.fields(message):
            if each.number == 1:
                name = self._wire.text(each)
            elif each.number == 2:
                for kind in self._only(each, 1):  # the type of a tensor, which contains the shape
                    for sizes in self._only(kind, 2):
                        shape += [self._size(size) for size in self._only(sizes, 1)]
        return {name: tuple(shape)}

    def _only(self, message: Field, number: int) -> list[Field]:
        return [each for each in self._wire.fields(message) if each.number == number]

    def _size(self, message: Field) -> int | str | None:
        for each in self._wire.fields(message):
            if each.number == 1:
                return each.value
            if each.number == 2:
                return self._wire.text(each)
        return None
