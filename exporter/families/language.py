"""One language of a checkpoint that has a vocabulary and an adapter for each of many."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OneLanguage:
    """What a checkpoint of many languages becomes for one of them.

    Attributes:
        name: The language, as the checkpoint names it.
        weights: The name of the file, without suffix, that holds its weights: those of the adapter
            and of the head, by the names of the model.
        stored: Whether the checkpoint's own weights are this language's, if there is no such file.
        companions: The content of those JSON files that are other ones for one language, by name.
    """

    name: str
    weights: str
    stored: bool
    companions: Mapping[str, Mapping[str, Any]]
