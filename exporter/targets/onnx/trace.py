"""Trace graphs to ONNX, without their weights."""

import onnx_ir as ir
import torch

from exporter.errors import BuildError
from exporter.families.graph import Graph
from exporter.targets.onnx import attention, passes
from exporter.targets.onnx.linear import (
    int8_matmul_nodes,
)
from exporter.targets.onnx.passes import placeholder

_OPSET = 20


def _trace(graph: Graph) -> ir.Model:
    """Trace a graph to ONNX, weights still absent."""
    traced = graph.single_layer or graph
    axes = [traced.dynamic.get(name, {}) for name in traced.inputs]
    dynamic = tuple(dict.fromkeys(named, torch.export.Dim.DYNAMIC) for named in axes)
    program = torch.export.export(
        traced.module,
        tuple(traced.inputs.values()),
        dynamic_shapes={"inputs": dynamic},
        strict=False,
    )
    operators = torch.ops.exporter
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=_OPSET,
        input_names=list(traced.inputs),
        output_names=list(traced.outputs),
        custom_translation_table={
            operators.int8_matmul.default: int8_matmul_nodes,
            operators.attention.default: attention.attention,
            operators.cross_attention.default: placeholder(passes.CROSS_ATTENTION, 6, 3),
            operators.quantized_channels.default: attention.quantized_channels,
            operators.shared_attention.default: attention.shared_attention,
            operators.shared_cross_attention.default: attention.shared_cross_attention,
            operators.layer_boundary.default: placeholder(passes.LAYER_BOUNDARY, 1, 1),
        },
    )
    if exported is None:
        msg = f"torch.onnx.export returned nothing for {graph.name}"
        raise BuildError(msg)
    if graph.single_layer is not None:
        passes.repeat_layer(exported.model, graph)
    passes.name_axes(exported.model, graph)
    passes.condition_cross_attention(exported.model)
    return exported.model
