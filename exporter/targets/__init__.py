"""The kinds of artifact: a registry of one package or module each.

A target writes a checkpoint as the files of an artifact, and loads those files. To add one: one
file (or folder) here, one line in `TARGETS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.system.registry import Registry

if TYPE_CHECKING:
    from exporter.targets.base import Target

# The package holds the facts that need no torch; see `exporter.targets.base` for its `target`.
TARGETS: Registry[Target] = Registry(
    "target",
    {
        "onnx-int8": "exporter.targets.onnx",
        "torch-int8": "exporter.targets.pytorch",
        "aoti": "exporter.targets.aoti",
    },
)
