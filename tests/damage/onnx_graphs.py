"""Edit the graphs of an ONNX artifact, whose weights stay where they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Edited:
    """One graph, by the names of its nodes' kinds and outputs."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = model.graph.node
        self._made = 0

    def of(self, kind: str) -> list[Any]:
        """Return the nodes of a kind, in order."""
        found = [node for node in self.nodes if node.op_type == kind]
        assert found, f"no {kind}"
        return found

    def set(self, node: Any, name: str, value: Any) -> None:
        """Set an attribute of a node."""
        for attribute in list(node.attribute):
            if attribute.name == name:
                node.attribute.remove(attribute)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a small initializer; return its name."""
        name = self._name()
        tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
        self.model.graph.initializer.append(tensor)
        return name

    def then(
        self, before: Any, kind: str, inputs: Sequence[str], domain: str = "", **how: Any
    ) -> str:
        """Insert a node before another one; return its output."""
        made = self._name()
        self._insert(before, helper.make_node(kind, list(inputs), [made], domain=domain, **how))
        return made

    def _insert(self, before: Any, node: Any) -> None:
        place = next(i for i, each in enumerate(self.nodes) if each is before or each == before)
        self.nodes.insert(place, node)

    def append(self, kind: str, inputs: Sequence[str], output: str, **how: Any) -> None:
        """Add a node at the end."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **how))

    def inner(self, name: str) -> str:
        """Rename an output to an inner value, which makes room for another of its name."""
        other = self._name()
        for node in self.nodes:
            node.output[:] = [other if each == name else each for each in node.output]
            node.input[:] = [other if each == name else each for each in node.input]
        return other

    def feed(self, node: Any, old: str, new: str) -> None:
        """Replace an input of a node."""
        assert old in node.input
        node.input[:] = [new if each == old else each for each in node.input]

    def makes(self, name: str) -> Any:
        """Return the node with an output."""
        return next(node for node in self.nodes if name in node.output)

    def takes(self, name: str) -> list[Any]:
        """Return the nodes with an input."""
        return [node for node in self.nodes if name in node.input]

    def _name(self) -> str:
        self._made += 1
        return f"planted_{self._made}"


@contextmanager
def edited(folder: Path, graph: str) -> Iterator[Edited]:
    """Open the graph of a name in either layout, and write it back without its weights."""
    path = graph_path(folder, graph)
    model = onnx.load(path, load_external_data=False)
    yield Edited(model)
    path.write_bytes(model.SerializeToString())


def graph_path(folder: Path, graph: str) -> Path:
    """Return the file of a graph."""
    (path,) = [p for p in folder.rglob("*.onnx") if p.stem.removesuffix("_quantized") == graph]
    return path
