"""Passes on a traced graph, for the kernels of CUDA: fewer nodes, and none without a kernel."""

import onnx_ir as ir

from exporter.targets.onnx.attention import MICROSOFT

_SUM = 3  # the place of the sum among the outputs of SkipLayerNormalization


def join_norms(model: ir.Model) -> None:
    """Replace each addition before a layer norm, and both, by one `SkipLayerNormalization`.

    The sum that is normalized, with the bias of a product in it, is an output of the node. The
    CUDA provider computes it as `LayerNormalization`, with sums in float32, where its option
    `enable_skip_layer_norm_strict_mode` is set.
    """
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        states, scale, shift = norm.inputs[:3]
        added = states.producer() if states is not None else None
        if states is None or added is None or not _adds_states(added) or states.is_graph_output():
            continue
        operands, bias = _operands(added)
        joined = ir.node(
            "SkipLayerNormalization",
            [*operands, scale, shift, bias],
            attributes={"epsilon": norm.attributes["epsilon"].as_float()},
            domain=MICROSOFT,
            num_outputs=_SUM + 1,
        )
        for old, new in ((norm.outputs[0], joined.outputs[0]), (states, joined.outputs[_SUM])):
            new.name, new.type, new.shape = old.name, old.type, old.shape
        for unused in joined.outputs[1:_SUM]:
            unused.name = ""
        joined.name = norm.name
        _insert(model.graph, added, norm, joined)
    model.graph.opset_imports[MICROSOFT] = 1


def plain_casts(model: ir.Model) -> None:
    """Replace each `CastLike`, for which there is no kernel, by the `Cast` that it stands for."""
    for node in [node for node in model.graph if node.op_type == "CastLike"]:
        states, like = node.inputs
        if like is None or like.dtype is None:
            continue
        cast = ir.node("Cast", [states], attributes={"to": int(like.dtype)}, name=node.name)
        (old,), (new,) = node.outputs, cast.outputs
        new.name, new.type, new.shape = old.name, ir.TensorType(like.dtype), old.shape
        model.graph.insert_after(node, cast)
        ir.convenience.replace_all_uses_with(old, new)
        model.graph.remove([node], safe=True)


def _insert(graph: ir.Graph, added: ir.Node, norm: ir.Node, joined: ir.Node) -> None:
    """Put the node in the place of both; the sum may be used before the norm."""
    graph.insert_after(added, joined)
    states = added.outputs[0]
    ir.convenience.replace_all_uses_with(states, joined.outputs[_SUM])
    ir.convenience.replace_all_uses_with(
        norm.outputs[0], joined.outputs[0], replace_graph_outputs=True
    )
    summands = [value.producer() for value in added.inputs if value is not None]
    graph.remove([norm, added], safe=True)
    unused = [node for node in summands if node is not None and not node.outputs[0].uses()]
    graph.remove([node for node in unused if not node.outputs[0].is_graph_output()], safe=True)


def _adds_states(node: ir.Node) -> bool:
    """Return whether a node adds two tensors of the same shape."""
    if node.op_type != "Add":
        return False
    first, second = (value.shape if value is not None else None for value in node.inputs)
    return first is not None and second is not None and list(first) == list(second)


def _operands(added: ir.Node) -> tuple[list[ir.Value | None], ir.Value | None]:
    """Return what a node adds, and the bias that one of both is the sum with, if it is."""
    for place in (1, 0):
        value = added.inputs[place]
        inner = value.producer() if value is not None else None
        if value is None or inner is None or inner.op_type != "Add" or len(value.uses()) > 1:
            continue
        product, bias = inner.inputs
        if bias is not None and bias.is_initializer() and len(bias.shape or ()) == 1:
            return [added.inputs[1 - place], product], bias
    return [*added.inputs], None
