"""Trace graphs to ONNX, without their weights."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch

from exporter.errors import BuildError
from exporter.families import attention as operators
from exporter.families.graph import Graph, layer_boundary
from exporter.targets.onnx import OPSET, attention, modules
from exporter.targets.onnx.graphs import passes
from exporter.targets.onnx.graphs.passes import placeholder


def _trace(graph: Graph, nodes: Mapping[Any, Callable[..., Any]] | None = None) -> ir.Model:
    """Trace a graph to ONNX, without weights, and apply the passes.

    Args:
        graph: The graph.
        nodes: Functions that make the nodes of operators, in place of the usual ones.
    """
    traced = graph.single_layer or graph
    axes = [traced.dynamic.get(name, {}) for name in traced.inputs]
    dynamic = tuple(dict.fromkeys(named, torch.export.Dim.DYNAMIC) for named in axes)
    program = torch.export.export(
        traced.module,
        tuple(traced.inputs.values()),
        dynamic_shapes={"inputs": dynamic},
        strict=False,
    )
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=OPSET,
        input_names=list(traced.inputs),
        output_names=list(traced.outputs),
        custom_translation_table=_translations(nodes or {}),
    )
    if exported is None:
        msg = f"torch.onnx.export returned nothing for {graph.name}"
        raise BuildError(msg)
    if graph.single_layer is not None:
        passes.repeat_layer(exported.model, graph)
    passes.name_axes(exported.model, graph)
    passes.condition_cross_attention(exported.model)
    return exported.model


def _translations(others: Mapping[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """Return the functions that make the nodes of each custom operator, and those of `others`."""
    nodes: dict[Any, Callable[..., Any]] = {
        **modules.nodes(),
        operators.attention: attention.attention,
        operators.cross_attention: placeholder(passes.CROSS_ATTENTION, 6, 3),
        operators.quantized_channels: attention.quantized_channels,
        operators.shared_attention: attention.shared_attention,
        operators.shared_cross_attention: attention.shared_cross_attention,
        operators.windows_attention: attention.windows_attention,
        layer_boundary: placeholder(passes.LAYER_BOUNDARY, 1, 1),
        **others,
    }
    return {operator._opoverload: function for operator, function in nodes.items()}
