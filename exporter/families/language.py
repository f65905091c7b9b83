"""One language of a checkpoint that has a vocabulary and an adapter for each of many."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import CheckpointError

_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True)
class OneLanguage:
    """What a checkpoint of many languages becomes for one of them.

    Attributes:
        name: The language, as the checkpoint names it.
        weights: The name of the file, without suffix, that holds its weights: those of the adapter
            and of the head, by the names of the model.
        stored: Whether the checkpoint's own weights are this language's, if there is no such file.
        key: The key of the artifact's `config.json` that names the language.
        companions: The content of those JSON files that are other ones for one language, by name.
    """

    name: str
    weights: str
    stored: bool
    key: str
    companions: Mapping[str, Mapping[str, Any]]

    def file(self, names: Collection[str], where: str) -> str | None:
        """Return the file that holds its weights; None if the checkpoint's own weights do.

        Args:
            names: The names of all files.
            where: The folder or repository, for messages.

        Raises:
            CheckpointError: There is no such file.
        """
        found = next((self.weights + end for end in _SUFFIXES if self.weights + end in names), None)
        if found is None and not self.stored:
            msg = f"{where}: no {self.weights}{_SUFFIXES[0]}, the weights for {self.name!r:.40}"
            raise CheckpointError(msg)
        return found
