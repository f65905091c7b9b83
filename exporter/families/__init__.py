"""The families of speech models: a registry of one package or module each.

A family knows how a model is cut into graphs and how it transcribes. To add one: one file (or
folder) here, one line in `FAMILIES`, one tiny model in `tests/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from exporter.errors import CheckpointError
from exporter.system.registry import Registry

if TYPE_CHECKING:
    from exporter.families.base import Family

# The package holds `MODEL_TYPES`; see `exporter.families.base` for what its `family` offers.
FAMILIES: Registry[Family] = Registry("family", {"whisper": "exporter.families.whisper"})


def family_name(config: dict[str, Any]) -> str:
    """Return the family of a checkpoint by its config's `model_type`; nothing of it is executed."""
    model_type = config.get("model_type")
    for name in FAMILIES:
        if model_type in FAMILIES.facts(name).MODEL_TYPES:
            return name
    msg = f"config.json: model_type {model_type!r} is not one of: {', '.join(model_types())}"
    raise CheckpointError(msg)


def model_types() -> list[str]:
    """Return every `model_type` that some family knows, sorted."""
    return sorted(_model_types())


def _model_types() -> Iterator[str]:
    for name in FAMILIES:
        yield from FAMILIES.facts(name).MODEL_TYPES
