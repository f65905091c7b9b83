"""Modules that replace a model's own for tracing: one file per scheme."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.targets.aoti.modules import dynamic_int8, static_int8, weight_only
from exporter.targets.aoti.modules.dynamic_int8 import Activations, Int8Frames, Int8Linear
from exporter.targets.aoti.modules.static_int8 import StaticFrames, StaticLinear
from exporter.targets.aoti.modules.table import SharedTable
from exporter.targets.aoti.modules.weight_only import GroupedLinear

_WITH_GELU = (
    dynamic_int8.int8_linear,
    dynamic_int8.int8_conv,
    static_int8.static_int8_linear,
    static_int8.static_int8_conv,
    weight_only.grouped_linear,
)


def replace_modules(
    model: nn.Module,
    plan: QuantizationPlan,
    shared: Mapping[str, str],
    *,
    onednn: bool,
    vnni: bool,
) -> None:
    """Replace the quantized modules of a plan.

    Args:
        model: A skeleton.
        plan: The scheme of each module.
        shared: The tables with a head's weights, from `shared_tables`.
        onednn: Whether many rows go through oneDNN's product.
        vnni: Whether the CPU to compile for has VNNI.
    """
    activations = Activations() if onednn else None
    for name, scheme in plan.quantized.items():
        if name not in shared:
            made = _replacement(model.get_submodule(name), scheme, activations, widen=not vnni)
            replace_module(model, name, made)
    for table in shared.keys() & plan.quantized.keys():
        head = model.get_submodule(shared[table])
        assert isinstance(head, Int8Linear)
        replace_module(model, table, SharedTable(head))


def _replacement(
    module: nn.Module, scheme: IntegerScheme, activations: Activations | None, *, widen: bool
) -> nn.Module:
    static = scheme.name == "static-int8"
    if isinstance(module, nn.Conv1d):
        return (StaticFrames if static else Int8Frames)(module, widen=widen)
    assert isinstance(module, nn.Linear)
    if isinstance(scheme, WeightOnly):
        return GroupedLinear(module, scheme)
    dynamic = partial(Int8Linear, activations=activations)
    return (StaticLinear if static else dynamic)(module, widen=widen)


def fuse_gelu(graph: torch.fx.Graph) -> None:
    """Fuse an exact GELU that is the only use of an integer product into that operator.

    Whether it applies GELU is the operator's last argument.
    """
    for product in _WITH_GELU:
        operator: Any = product._opoverload
        for node in graph.find_nodes(op="call_function", target=operator):
            after = next(iter(node.users))
            exact = after.target is torch.ops.aten.gelu.default and not after.kwargs
            if len(node.users) == 1 and exact:
                node.update_arg(len(node.args) - 1, True)
                after.replace_all_uses_with(node)
                graph.erase_node(after)
