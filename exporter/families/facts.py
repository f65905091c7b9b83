"""Facts about a family that need no torch, as plain data."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from exporter.formats.config_limits import Limits


@dataclass(frozen=True)
class Companions:
    """The small files beside a checkpoint's weights, which are copied to every artifact.

    Attributes:
        configs: The required JSON files, including `config.json`.
        tokenizer: All files that a tokenizer may have; existing ones are copied.
        tokenizer_forms: Sets of files, one of which must be complete; messages name the first.
        nested: The configs that transformers 5 writes into another file, which is given.
        tokenizer_class: The tokenizer's class where a config names one of transformers 5's general
            ones, which transformers 4 does not have.
        languages: The files that tell the languages of a checkpoint of many, the first of them
            required.
        carried: Patterns of files of any size that are copied as they are, and read by other
            loaders only.
    """

    configs: tuple[str, ...]
    tokenizer: tuple[str, ...]
    tokenizer_forms: tuple[tuple[str, ...], ...]
    nested: Mapping[str, str] = field(default_factory=dict)
    tokenizer_class: str = "PreTrainedTokenizerFast"
    languages: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All files, in the order in which they are hashed."""
        return (*self.configs, *self.tokenizer)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """All files that a checkpoint may have: `names`, and the files that hold nested ones."""
        return (*self.names, *dict.fromkeys(self.nested.values()))

    def carries(self, names: Iterable[str]) -> list[str]:
        """Return those of `names`, POSIX paths inside a checkpoint, that are carried, sorted."""
        return sorted(n for n in names if any(_matches(n, each) for each in self.carried))

    def missing(self, names: Collection[str]) -> list[str]:
        """Return the required files that are not among `names`."""
        missing = [name for name in self.configs if name not in names]
        if not any(set(form) <= set(names) for form in self.tokenizer_forms):
            first, *others = (" and ".join(form) for form in self.tokenizer_forms)
            missing.append(first + "".join(f" (or {form})" for form in others))
        return missing


def _matches(name: str, pattern: str) -> bool:
    """Return whether a path matches a pattern, whose `*` is no part of several folders."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


class FamilyFacts(Protocol):
    """The interface of a family's package, or of its module if it is a single one.

    Attributes:
        MODEL_TYPES: The values of `model_type` in `config.json` of this family.
        COMPANIONS: The files that its checkpoints need beside weights.
        CONFIGS: What each JSON file may hold, by its name; the rest of it is never used.
        DECODING: The fields of `exporter.recipe.Decoding` that it supports.
        ENCODERS: The names of graphs that run once per window of audio, not once per token.
    """

    MODEL_TYPES: tuple[str, ...]
    COMPANIONS: Companions
    CONFIGS: Mapping[str, type[Limits]]
    DECODING: tuple[str, ...]
    ENCODERS: tuple[str, ...]
