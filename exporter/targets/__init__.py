"""The kinds of artifact: a registry of one package or module each.

A target writes a checkpoint as the files of an artifact, and loads those files. To add one: one
file (or folder) here, one line in `TARGETS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.system.registry import Registry

if TYPE_CHECKING:
    from exporter.targets.base import Target
    from exporter.targets.facts import TargetFacts

# The package holds the facts that need no torch; see `exporter.targets.base` for its `target`.
TARGETS: Registry[Target] = Registry(
    "target",
    {
        "onnx-int8": "exporter.targets.onnx",
        "torch-int8": "exporter.targets.pytorch",
        "aoti": "exporter.targets.aoti",
    },
)


def facts_of(kind: str) -> TargetFacts:
    """Return the facts of a kind of target; KeyError where `TARGETS` has none of that name."""
    facts: TargetFacts = TARGETS.facts(kind)
    return facts
