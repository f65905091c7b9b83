"""The families of speech models: a registry of one package or module each.

A family cuts a model into graphs and transcribes with them. To add one: one file (or
folder) here, one line in `FAMILIES`, one tiny model in `tests/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import CheckpointError
from exporter.formats.config_json import read_json
from exporter.system.registry import Registry

if TYPE_CHECKING:
    from exporter.families.base import Configs, Family
    from exporter.families.facts import FamilyFacts

# The package has the attributes of `facts.FamilyFacts`; its module `family` is a `base.Family`.
FAMILIES: Registry[Family] = Registry(
    "family",
    {"whisper": "exporter.families.whisper", "ctc": "exporter.families.ctc"},
)


def family_name(config: Mapping[str, Any]) -> str:
    """Return the family of a checkpoint by its config's `model_type`, without importing it.

    Raises:
        CheckpointError: No family has that type.
    """
    model_type = config.get("model_type")
    for name in FAMILIES:
        if model_type in family_facts(name).MODEL_TYPES:
            return name
    msg = f"config.json: model_type {model_type!r:.60} is not one of: {', '.join(model_types())}"
    raise CheckpointError(msg)


def family_facts(name: str) -> FamilyFacts:
    """Return the facts of the family called `name`."""
    facts: FamilyFacts = FAMILIES.facts(name)
    return facts


def model_types() -> list[str]:
    """Return every `model_type` of all families, sorted."""
    return sorted(_each(lambda facts: facts.MODEL_TYPES))


def companion_names() -> list[str]:
    """Return the names of all companion files that checkpoints may have, without duplicates."""
    return list(dict.fromkeys(_each(lambda facts: facts.COMPANIONS.stored_names)))


def read_configs(folder: Path, name: str) -> Configs:
    """Read what a family uses of the JSON files of its checkpoints and artifacts, by file name.

    Raises:
        CheckpointError: One is missing, cannot be read, or holds what the family's may not.
    """
    return {
        file: read_config(folder / file, name) for file in family_facts(name).COMPANIONS.configs
    }


def read_config(path: Path, name: str) -> dict[str, Any]:
    """Read what a family uses of one JSON file.

    Raises:
        CheckpointError: As `read_configs`.
    """
    from exporter.formats.config_limits import held

    return held(family_facts(name).CONFIGS[path.name], read_json(path), str(path))


def _each(fact: Callable[[FamilyFacts], Iterable[str]]) -> Iterator[str]:
    for name in FAMILIES:
        yield from fact(family_facts(name))
