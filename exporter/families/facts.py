"""Facts of a family that are asked for without using it: plain data, no torch."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Companions:
    """The small files beside a checkpoint's weights, which every artifact carries along.

    Attributes:
        configs: JSON files without which there is no transcript, `config.json` among them.
        tokenizer: Every file that a tokenizer may have; those that are there are carried.
        tokenizer_forms: The sets of files of which one has to be whole; messages name the first.
    """

    configs: tuple[str, ...]
    tokenizer: tuple[str, ...]
    tokenizer_forms: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All files, in the order in which they are hashed."""
        return (*self.configs, *self.tokenizer)

    def missing(self, names: Collection[str]) -> list[str]:
        """Return what is lacking for a transcript where only files called `names` are there."""
        missing = [name for name in self.configs if name not in names]
        if not any(set(form) <= set(names) for form in self.tokenizer_forms):
            first, *others = (" and ".join(form) for form in self.tokenizer_forms)
            missing.append(first + "".join(f" (or {form})" for form in others))
        return missing


class FamilyFacts(Protocol):
    """What a family's package tells at once; one that is a single module tells it there.

    Attributes:
        MODEL_TYPES: The values of `model_type` in `config.json` that are this family's.
        COMPANIONS: The files that its checkpoints need beside weights.
        DECODING: The fields of `exporter.recipe.Decoding` that mean something to it.
        ENCODERS: The names of graphs that run once for a window of audio, not once a token.
    """

    MODEL_TYPES: tuple[str, ...]
    COMPANIONS: Companions
    DECODING: tuple[str, ...]
    ENCODERS: tuple[str, ...]
