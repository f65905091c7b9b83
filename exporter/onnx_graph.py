"""What is done to a traced ONNX graph: axes named, the first step set apart, weights streamed in.

Separate from the target because it knows nothing of int8, files' names or options.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.tensor_adapters import to_torch_dtype
from torch import Tensor

from exporter.graphs import Graph
from exporter.progress import Progress

# Offsets at whole pages, so that a runtime can map large tensors instead of copying them.
_PAGE = 4096


def name_axes(model: ir.Model, graph: Graph) -> None:
    """Give inputs and outputs the axis names of the graph instead of the tracer's symbols."""
    for value, (name, example) in zip(model.graph.inputs, graph.inputs.items(), strict=True):
        axes = graph.dynamic.get(name, {})
        value.shape = ir.Shape(axes.get(axis, size) for axis, size in enumerate(example.shape))
    for value, shape in zip(model.graph.outputs, graph.outputs.values(), strict=True):
        value.shape = ir.Shape(shape)


def condition_cross_attention(model: ir.Model) -> None:
    """Turn every CrossAttention placeholder into an `If`.

    One branch attends to the cache that came in; the other projects the encoder's output first and
    gives the new cache. The projections move into their branch, so that no weight is stored twice
    and nothing is computed or copied that a step does not need.
    """
    for node in [node for node in model.graph if node.op_type == "CrossAttention"]:
        query, past_key, past_value, key, value, cached = filter(None, node.inputs)
        projections = _exclusive_ancestors(model.graph, node, {3, 4})
        model.graph.remove(projections)
        choice = ir.node(
            "If",
            [cached],
            attributes={
                "then_branch": _cached_branch(node.name, query, past_key, past_value),
                "else_branch": _first_branch(node.name, projections, query, key, value),
            },
            num_outputs=3,
        )
        for old, new in zip(node.outputs, choice.outputs, strict=True):
            new.name, new.type = old.name, old.type
        model.graph.insert_before(node, choice)
        ir.convenience.replace_all_uses_with(
            node.outputs, choice.outputs, replace_graph_outputs=True
        )
        model.graph.remove([node], safe=True)
    model.graph.opset_imports.pop("exporter", None)


def write(
    model: ir.Model,
    path: Path,
    names: Mapping[str, str],
    read: Callable[[str], Tensor],
    progress: Progress,
) -> None:
    """Write a graph, reading each weight when its turn comes.

    `names` maps the graph's initializers to the names that `read` understands. Every byte of weight
    goes once from the checkpoint to its final place beside the graph.
    """
    _forget_source(model)
    for name, initializer in model.graph.initializers.items():
        absent = initializer.const_value
        if name in names and absent is not None:
            initializer.const_value = _lazy(names[name], absent, read)

    def told(_: object, info: ir.external_data.CallbackInfo) -> None:
        progress(f"writing {path.name}", (info.index + 1) / info.total)

    ir.save(model, path, external_data=f"{path.name}_data", alignment=_PAGE, callback=told)
    onnx.checker.check_model(path)


def _forget_source(model: ir.Model) -> None:
    """Drop the tracer's notes: stack traces of this machine, many times the graph's own size."""
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in nodes for output in node.outputs]
    notes = [each.metadata_props for each in nodes] + [each.metadata_props for each in values]
    for note in (model.metadata_props, model.graph.metadata_props, *notes):
        note.clear()
    for node in nodes:
        node.doc_string = None


def _lazy(name: str, absent: ir.TensorProtocol, read: Callable[[str], Tensor]) -> ir.LazyTensor:
    """An initializer whose data is read when it is written, in the graph's type."""
    shape = ir.Shape(absent.shape.numpy())
    dtype = to_torch_dtype(absent.dtype)

    def tensor() -> ir.TensorProtocol:
        return ir.tensor(read(name).to(dtype))

    return ir.LazyTensor(tensor, dtype=absent.dtype, shape=shape, name=name)


def _exclusive_ancestors(graph: ir.Graph, node: ir.Node, indices: set[int]) -> list[ir.Node]:
    """The nodes that serve nothing but the inputs `indices` of `node`, in the graph's order."""
    chosen: set[ir.Node] = set()
    for candidate in reversed(list(graph)):
        uses = [use for output in candidate.outputs for use in output.uses()]
        wanted = [use.node in chosen or (use.node is node and use.idx in indices) for use in uses]
        kept = any(output.is_graph_output() for output in candidate.outputs)
        if uses and all(wanted) and not kept:
            chosen.add(candidate)
    return [each for each in graph if each in chosen]


def _cached_branch(name: str | None, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Graph:
    """Attend to what is there already; the cache that goes out is empty."""
    zero = ir.node("Constant", [], attributes={"value": ir.tensor([0])})
    two = ir.node("Constant", [], attributes={"value": ir.tensor([2])})
    bounds = (zero.outputs[0], zero.outputs[0], two.outputs[0])
    empty = [ir.node("Slice", [past, *bounds]) for past in (key, value)]
    nodes = [*_attention(query, key, value), zero, two, *empty]
    return _branch(f"{name}_cached", nodes, [nodes[3], *empty])


def _first_branch(
    name: str | None,
    projections: list[ir.Node],
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
) -> ir.Graph:
    """Project the encoder's output, attend to it, and hand it on as the cache."""
    attention = _attention(query, key, value)
    producers = [made for cache in (key, value) if (made := cache.producer()) is not None]
    return _branch(f"{name}_first", [*projections, *attention], [attention[3], *producers])


def _attention(query: ir.Value, key: ir.Value, value: ir.Value) -> list[ir.Node]:
    """softmax(query key^T) value; queries are scaled already."""
    transposed = ir.node("Transpose", [key], attributes={"perm": [0, 1, 3, 2]})
    scores = ir.node("MatMul", [query, transposed.outputs[0]])
    weights = ir.node("Softmax", [scores.outputs[0]], attributes={"axis": -1})
    return [transposed, scores, weights, ir.node("MatMul", [weights.outputs[0], value])]


def _branch(name: str, nodes: list[ir.Node], last: list[ir.Node]) -> ir.Graph:
    """A branch of an `If`: it takes nothing and gives the first output of each node in `last`."""
    made = [output for node in nodes for output in node.outputs if output.name is None]
    for index, output in enumerate(made):
        output.name = f"{name}_{index}"  # unique in the whole model, as ONNX demands
    outputs = [node.outputs[0] for node in last]
    for output in outputs:
        output.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Graph([], outputs, nodes=nodes, name=name)
