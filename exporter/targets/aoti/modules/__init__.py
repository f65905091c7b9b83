"""Modules that replace a model's own for tracing: one file per scheme."""

from collections.abc import Mapping

from torch import nn

from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.targets.aoti.modules.dynamic_int8 import Activations, Int8Linear
from exporter.targets.aoti.modules.table import SharedTable
from exporter.targets.aoti.modules.weight_only import GroupedLinear


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
        if name in shared:
            continue
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        if isinstance(scheme, WeightOnly):
            replace_module(model, name, GroupedLinear(module, scheme))
        else:
            replace_module(model, name, Int8Linear(module, activations, widen=not vnni))
    for table in shared.keys() & plan.quantized.keys():
        head = model.get_submodule(shared[table])
        assert isinstance(head, Int8Linear)
        replace_module(model, table, SharedTable(head))
