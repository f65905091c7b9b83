"""Write ONNX files: a graph, and its weights in a file beside it, tensor by tensor."""

from collections.abc import Callable, Container
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.tensor_adapters import to_torch_dtype
from torch import Tensor

from exporter.formats.tensor_io import ALIGNMENT, Place, converted, write_tensors
from exporter.system.progress import Progress

# Large tensors are page-aligned, so that a runtime can map them instead of copying them.
_PAGE = 4096
_LARGE_BYTES = 64 << 10


def save(model: ir.Model, path: Path, names: Container[str]) -> None:
    """Write a graph whose initializers in `names` are external data, to be written by `fill`."""
    _forget_source(model)
    for name, place in _places(model, names).items():
        initializer = model.graph.initializers[name]
        assert initializer.dtype is not None
        initializer.const_value = ir.ExternalTensor(
            f"{path.name}_data",
            place.offset,
            place.size_bytes,
            initializer.dtype,
            shape=ir.Shape(place.shape),
            name=name,
            base_dir=path.parent,
        )
    ir.save(model, path)


def fill(path: Path, read: Callable[[str], Tensor], progress: Progress) -> None:
    """Write the weights of a saved graph in its types, and check the model.

    Args:
        path: The graph, from `save`.
        read: Returns the weight of a name.
        progress: Called with the fraction of bytes written.
    """
    places = {}
    for name, initializer in ir.load(path).graph.initializers.items():
        tensor = initializer.const_value
        if isinstance(tensor, ir.ExternalTensor):
            dtype, shape = to_torch_dtype(tensor.dtype), tuple(tensor.shape.numpy())
            places[name] = Place(tensor.offset or 0, dtype, shape)
    data = path.with_name(f"{path.name}_data")

    def read_converted(name: str) -> Tensor:
        return converted(read(name), places[name].dtype, name)

    write_tensors(data, places, read_converted, progress)
    onnx.checker.check_model(path, full_check=True)


def share_external_data(path: Path, weights_from: Path) -> None:
    """Point a saved graph's weights to those of the same names in another's file, and check it."""
    model, lent = ir.load(path), ir.load(weights_from).graph.initializers
    for name, initializer in model.graph.initializers.items():
        if isinstance(initializer.const_value, ir.ExternalTensor):
            initializer.const_value = lent[name].const_value
    ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def _places(model: ir.Model, names: Container[str]) -> dict[str, Place]:
    """Assign file offsets to the weights, in the graph's order."""
    places, end = {}, 0
    for name, initializer in model.graph.initializers.items():
        absent = initializer.const_value
        if name not in names or absent is None:
            continue
        place = Place(end, to_torch_dtype(absent.dtype), tuple(absent.shape.numpy()))
        step = _PAGE if place.size_bytes >= _LARGE_BYTES else ALIGNMENT
        places[name] = replace(place, offset=-(-end // step) * step)
        end = places[name].offset + place.size_bytes
    return places


def _forget_source(model: ir.Model) -> None:
    """Drop the tracer's metadata: stack traces of this machine, much larger than the graph."""
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in nodes for output in node.outputs]
    notes = [each.metadata_props for each in nodes] + [each.metadata_props for each in values]
    for note in (model.metadata_props, model.graph.metadata_props, *notes):
        note.clear()
    for node in nodes:
        node.doc_string = None
