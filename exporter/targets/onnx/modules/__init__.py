"""Modules that replace a model's own for ONNX, and their nodes: one file per scheme.

Each file has `replacement(module, scheme, integers)`, which returns an `OwnLayout` whose codes
have the type `integers` where the scheme leaves that open; and `NODES`, which maps its custom
operators to functions that make their nodes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.float import Scheme as Float
from exporter.targets.onnx.modules import dynamic_int8, floating, static_int8, weight_only
from exporter.targets.onnx.modules.dynamic_int8 import Int8MatMul
from exporter.targets.onnx.modules.floating import FloatMatMul, TiedMatMul
from exporter.targets.onnx.modules.table import SharedHead, SharedTable

_BY_SCHEME: dict[str, Any] = {
    "float": floating,
    "dynamic-int8": dynamic_int8,
    "static-int8": static_int8,
    "weight-int4": weight_only,
    "weight-int8": weight_only,
}


def replace_modules(
    model: nn.Module,
    plan: QuantizationPlan,
    shared: Mapping[str, str],
    integers: torch.dtype,
) -> None:
    """Replace the planned modules, and all other linear ones, for ONNX.

    A convolution in float stays as it is.

    Args:
        model: A skeleton.
        plan: The scheme of each module.
        shared: The tables with a head's weights, from `shared_tables`.
        integers: The type of int8 codes: int8, or uint8 with 128 added.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) or name in plan.quantized.keys() - shared.keys():
            scheme = plan.modules.get(name, Float())
            made = _BY_SCHEME[scheme.name].replacement(module, scheme, integers)
            replace_module(model, name, made)
    static_int8.share_ranges(model, plan)
    for table, head in shared.items():
        product = model.get_submodule(head)
        if table in plan.quantized:
            assert isinstance(product, Int8MatMul)
            shared_head = SharedHead(product)
            replace_module(model, head, shared_head)
            replace_module(model, table, SharedTable(shared_head))
        elif isinstance(product, FloatMatMul):
            replace_module(model, head, TiedMatMul(model.get_submodule(table)))


def nodes() -> dict[Any, Callable[..., Any]]:
    """Return the functions that make the nodes of each custom operator of the modules."""
    return {operator: make for each in _BY_SCHEME.values() for operator, make in each.NODES.items()}
