"""The kinds of artifact: a registry of one package or module each.

A target writes a checkpoint as the files of an artifact, and loads those files. To add one: one
file (or folder) here, one line in `TARGETS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from exporter.quantization.schemes import DEFAULT
from exporter.system.registry import Registry

if TYPE_CHECKING:
    from exporter.targets.base import Target
    from exporter.targets.facts import TargetFacts
    from exporter.targets.inspection import Inspection

# The package holds the facts that need no torch; see `exporter.targets.base` for its `target`.
TARGETS: Registry[Target] = Registry(
    "target",
    {
        "onnx-int8": "exporter.targets.onnx",
        "onnx-fp16": "exporter.targets.onnx.cuda",
        "torch-int8": "exporter.targets.pytorch",
        "aoti": "exporter.targets.aoti",
    },
)


def inspection_of(kind: str) -> Inspection:
    """Return what validation asks of a kind of target.

    It is apart from the target, so that graphs are not built anew where it changes: the module
    `inspection` of a target's package, or that name in a target's single file.
    """
    facts: Any = TARGETS.facts(kind)
    if hasattr(facts, "__path__"):
        return cast("Inspection", import_module(f"{facts.__name__}.inspection"))
    return cast("Inspection", facts.inspection)


def default_scheme(kind: str) -> str:
    """Return the name of the scheme that a kind of target has where a recipe sets none."""
    return facts_of(kind).DEFAULT_SCHEME if kind in TARGETS else DEFAULT


def facts_of(kind: str) -> TargetFacts:
    """Return the facts of a kind of target; KeyError where `TARGETS` has none of that name."""
    facts: TargetFacts = TARGETS.facts(kind)
    return facts
