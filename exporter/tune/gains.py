"""What quantizing each group saves: bytes exactly, seconds as an estimate.

Bytes come from the target's own layout of its files. Seconds are arithmetic: a module that runs
once per window is bound by its products, one that runs once per token by reading its weights. Both
rates are this machine's, as `exporter machine` measures them. The estimate only ranks groups; what
a plan really takes is measured when it is judged.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from exporter.build import estimate
from exporter.build.estimate import Prediction
from exporter.build.resolve import Planned
from exporter.families import FAMILIES
from exporter.formats.tensor_io import FLOATS, Layout
from exporter.quantization.groups import ModuleGroup
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.validate.evidence.results import Survey

Gain = Callable[[ModuleGroup], float]
"""What a group saves, in bytes of the artifact or in seconds of a clip."""


@dataclass(frozen=True)
class Rates:
    """This machine's: operations per second of int8 and float32 products, and bytes read."""

    int8: float
    float32: float
    read_bytes: float

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> "Rates":
        """Return the rates from the result of `microbench.measure_fresh`."""
        product = measured["products"][0]
        read = measured["memory"]["read_bytes_per_s"]
        return cls(product["int8"], product["float32"], read)


def predicted(planned: Planned, plan: QuantizationPlan, skeleton: nn.Module) -> Prediction:
    """Estimate the build of a target with a plan from shapes alone, without a calibration."""
    carried = estimate.carried_bytes(planned.checkpoint)
    how = planned.kind, planned.options, plan, skeleton, planned.checkpoint, carried
    return estimate.predict(*how)


def size_of(planned: Planned, plan: QuantizationPlan, skeleton: nn.Module) -> int:
    """Return the bytes of the artifact that a plan would give."""
    return predicted(planned, plan, skeleton).size_bytes


def saved_bytes(planned: Planned, skeleton: nn.Module, instead: QuantizationScheme) -> Gain:
    """Return what gives the bytes that a group saves; negative where it costs bytes.

    Args:
        planned: The target, with the plan that quantizes.
        skeleton: The model, without weights.
        instead: The scheme of modules that are not quantized.
    """
    plan = planned.plan
    without = plan.with_scheme(plan.quantized.keys(), instead)
    most = size_of(planned, without, skeleton)
    known: dict[tuple[str, ...], float] = {}  # layers are alike, and a layout takes its time

    def gain(group: ModuleGroup) -> float:
        alike = tuple(re.sub(r"\d+", "", module) for module in group.modules)
        if alike not in known:
            others = plan.quantized.keys() - set(group.modules)
            known[alike] = most - size_of(planned, plan.with_scheme(others, instead), skeleton)
        return known[alike]

    return gain


def saved_seconds(
    planned: Planned,
    skeleton: nn.Module,
    instead: QuantizationScheme,
    survey: Survey,
    rates: Rates,
) -> Gain:
    """Return what gives the estimated seconds that a group saves on a clip.

    Args:
        planned: The target, with the plan that quantizes.
        skeleton: The model, without weights.
        instead: The scheme of modules that are not quantized.
        survey: How often each module runs in a clip.
        rates: This machine's.
    """
    forcing = FAMILIES[planned.family].forcing

    def of(module: str) -> float:
        if isinstance(skeleton.get_submodule(module), nn.Embedding):
            return 0.0  # a token reads one row
        weight = skeleton.get_parameter(f"{module}.weight")
        shape = tuple(weight.shape)
        if forcing.runs_once(module):
            operations = 2 * survey.rows.get(module, 1.0) * weight.numel()
            return operations * (1 / rates.float32 - 1 / rates.int8)
        stored = _stored(planned, module)
        before = _bytes(instead.layout(shape, stored))
        after = _bytes(planned.plan.quantized[module].layout(shape, stored))
        return survey.tokens * (before - after) / rates.read_bytes

    return lambda group: sum(map(of, group.modules))


def _stored(planned: Planned, module: str) -> Any:
    tensors, tied = planned.checkpoint.tensors, FAMILIES[planned.family].TIED
    name = f"{module}.weight"
    return FLOATS[tensors[name if name in tensors else tied.get(name, name)].dtype]


def _bytes(layout: Layout) -> int:
    total = 0
    for dtype, shape in layout.values():
        count = dtype.itemsize
        for length in shape:
            count *= length
        total += count
    return total


def in_order(
    groups: Sequence[ModuleGroup], divergence: Mapping[str, float], gains: Mapping[str, float]
) -> list[ModuleGroup]:
    """Return the groups in the order in which they are quantized: least harm for what it saves.

    Args:
        groups: The groups, each of which saves something.
        divergence: The divergence of each, quantized alone, by name.
        gains: What each saves, by name.
    """
    return sorted(groups, key=lambda group: divergence[group.name] / gains[group.name])
