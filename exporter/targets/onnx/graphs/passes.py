"""Graph passes on a traced ONNX graph: repeat layers, name axes, split off the first step.

Independent of int8, file names and options. Custom operators are traced as placeholders, nodes of
a domain of our own, and the passes replace all of them.
"""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from exporter.families.graph import Graph
from exporter.targets.onnx.attention import MICROSOFT, operator

CROSS_ATTENTION = "CrossAttention"
LAYER_BOUNDARY = "LayerBoundary"
_DOMAIN = "exporter"


def placeholder(name: str, inputs: int, outputs: int) -> Callable[..., Any]:
    """Return a function that makes a node of our domain, which a pass replaces later."""
    node = operator(_DOMAIN, name, inputs, outputs)
    return lambda *values: node(*values)


def repeat_layer(model: ir.Model, graph: Graph) -> None:
    """Repeat the one layer that was traced (`graph.single_layer`) for all layers of `graph`.

    The layer's nodes are those between the two LayerBoundary placeholders. Names of its weights,
    inputs and outputs have the layer's index in place of the first 0.
    """
    begin, end = (node for node in model.graph if node.op_type == LAYER_BOUNDARY)
    nodes = list(model.graph)
    layer = nodes[nodes.index(begin) + 1 : nodes.index(end)]
    own = _own_values(model.graph, layer)
    named = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    hidden = end.inputs[0]
    for index in range(1, graph.num_layers):
        copies: dict[ir.Value | None, ir.Value | None] = {begin.outputs[0]: hidden}
        copies |= {value: _copied(value, index) for value in own}
        for node in layer:
            model.graph.insert_before(end, _copied_node(node, copies, index))
        for value in filter(None, copies.values()):
            if value.const_value is not None:
                model.graph.register_initializer(value)
            named[value.name] = value
        hidden = copies[end.inputs[0]]
    before = begin.inputs[0]
    assert hidden is not None
    assert before is not None
    ir.convenience.replace_all_uses_with(end.outputs[0], hidden)
    ir.convenience.replace_all_uses_with(begin.outputs[0], before)
    model.graph.remove([end, begin], safe=True)
    model.graph.inputs[:] = [named[name] for name in graph.inputs]
    model.graph.outputs[:] = [named[name] for name in graph.outputs]


def _own_values(graph: ir.Graph, layer: list[ir.Node]) -> list[ir.Value]:
    """Return the weights and inputs that a layer does not share with others."""
    outer = {*graph.inputs, *graph.initializers.values()}
    used = dict.fromkeys(value for node in layer for value in node.inputs if value in outer)
    return [value for value in used if value is not None and ".0." in str(value.name)]


def _copied_node(
    node: ir.Node, copies: dict[ir.Value | None, ir.Value | None], index: int
) -> ir.Node:
    """Copy a node for another layer; its outputs are added to `copies`."""
    outputs = [_copied(value, index) for value in node.outputs]
    copies |= zip(node.outputs, outputs, strict=True)
    return ir.Node(
        node.domain,
        node.op_type,
        [copies.get(value, value) for value in node.inputs],
        node.attributes.values(),
        outputs=outputs,
        name=f"{node.name}.{index}",
    )


def _copied(value: ir.Value, index: int) -> ir.Value:
    """Return the value of another layer that corresponds to `value`."""
    name = str(value.name)
    name = name.replace(".0.", f".{index}.", 1) if ".0." in name else f"{name}.{index}"
    return ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)


def name_axes(model: ir.Model, graph: Graph) -> None:
    """Rename the axes of inputs and outputs from the tracer's symbols to the graph's names."""
    for value, (name, example) in zip(model.graph.inputs, graph.inputs.items(), strict=True):
        axes = graph.dynamic.get(name, {})
        value.shape = ir.Shape(axes.get(axis, size) for axis, size in enumerate(example.shape))
    for value, shape in zip(model.graph.outputs, graph.outputs.values(), strict=True):
        value.shape = ir.Shape(shape)


def condition_cross_attention(model: ir.Model) -> None:
    """Turn every CrossAttention placeholder into an `If`.

    One branch attends to the past cache; the other projects the encoder's output first and returns
    the new cache. The projections move into that branch, so that no weight is stored twice, and a
    step computes and copies only what it needs.
    """
    for node in [node for node in model.graph if node.op_type == CROSS_ATTENTION]:
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
            new.name, new.type, new.shape = old.name, old.type, old.shape
        model.graph.insert_before(node, choice)
        ir.convenience.replace_all_uses_with(
            node.outputs, choice.outputs, replace_graph_outputs=True
        )
        model.graph.remove([node], safe=True)
    model.graph.opset_imports[MICROSOFT] = 1
    model.graph.opset_imports.pop(_DOMAIN, None)


def _exclusive_ancestors(graph: ir.Graph, node: ir.Node, indices: set[int]) -> list[ir.Node]:
    """Return the nodes used only for the inputs `indices` of `node`, in the graph's order."""
    chosen: set[ir.Node] = set()
    for candidate in reversed(list(graph)):
        uses = [use for output in candidate.outputs for use in output.uses()]
        wanted = [use.node in chosen or (use.node is node and use.idx in indices) for use in uses]
        is_output = any(output.is_graph_output() for output in candidate.outputs)
        if uses and all(wanted) and not is_output:
            chosen.add(candidate)
    return [each for each in graph if each in chosen]


def _cached_branch(name: str | None, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Graph:
    """Return the branch that attends to the past cache and outputs an empty one."""
    zero = ir.node("Constant", [], attributes={"value": ir.tensor([0])})
    two = ir.node("Constant", [], attributes={"value": ir.tensor([2])})
    bounds = (zero.outputs[0], zero.outputs[0], two.outputs[0])
    empty = [ir.node("Slice", [past, *bounds]) for past in (key, value)]
    # Hypotheses of a window share its cache, so they are queries of one attention.
    rest = ir.node("Constant", [], attributes={"value": ir.tensor([-1, _width(key)])})
    pasts = ir.node("Shape", [key], attributes={"end": 1})
    grouped = ir.node("Concat", [pasts.outputs[0], rest.outputs[0]], attributes={"axis": 0})
    queries = ir.node("Reshape", [query, grouped.outputs[0]])
    attended = _attention(queries.outputs[0], key, value)
    rows = ir.node("Shape", [query])
    result = ir.node("Reshape", [attended.outputs[0], rows.outputs[0]])
    nodes = [rest, pasts, grouped, queries, attended, rows, result, zero, two, *empty]
    return _branch(f"{name}_cached", nodes, [result, *empty], query.type)


def _first_branch(
    name: str | None,
    projections: list[ir.Node],
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
) -> ir.Graph:
    """Return the branch that projects the encoder's output, attends, and outputs the cache."""
    attended = _attention(query, key, value)
    producers = [node for cache in (key, value) if (node := cache.producer()) is not None]
    return _branch(f"{name}_first", [*projections, attended], [attended, *producers], query.type)


def _attention(query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Node:
    """Return the attention node for keys and values [batch, heads, source, head_dim]."""
    assert key.shape is not None
    attributes = {"num_heads": int(key.shape[1]), "scale": 1.0}  # type: ignore[arg-type]
    return ir.node("MultiHeadAttention", [query, key, value], attributes, domain=MICROSOFT)


def _width(key: ir.Value) -> int:
    """Return the width of a model with keys [batch, heads, length, head_dim]."""
    assert key.shape is not None
    return int(key.shape[1]) * int(key.shape[3])  # type: ignore[arg-type]


def _branch(
    name: str, nodes: list[ir.Node], last: list[ir.Node], kind: ir.TypeProtocol | None
) -> ir.Graph:
    """Return a branch of an `If`, whose outputs are the first of each node in `last`."""
    unnamed = [output for node in nodes for output in node.outputs if output.name is None]
    for index, output in enumerate(unnamed):
        output.name = f"{name}_{index}"  # unique in the whole model, as ONNX requires
    outputs = [node.outputs[0] for node in last]
    for output in outputs:
        output.type = kind
    return ir.Graph([], outputs, nodes=nodes, name=name)
