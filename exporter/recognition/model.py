"""What a recogniser asks of an open model, and the models of families."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from exporter.recognition.quiet import quiet_libraries
from exporter.runtime.transcript import Segment, Sound, Transcript

if TYPE_CHECKING:
    from exporter.families.base import Family

Values = Mapping[str, Any]
"""Every option of decoding by name, as `exporter.runtime.decoding` checks them."""


class Model(Protocol):
    """An open artifact or original.

    Attributes:
        sampling_rate: The rate in Hz that it takes.
        vocabulary: The number of its tokens that have text.
        window: Samples of its window, beyond which recordings are decoded in several steps.
        functions: Its built graphs by name, which are looked up at every call, so that
            measurements can replace them; None for a model without graphs.
    """

    @property
    def sampling_rate(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def functions(self) -> dict[str, Any] | None: ...

    def transcribe(self, sounds: Sequence[Sound], decoding: Values) -> list[Transcript]:
        """Transcribe recordings, float32 mono [samples] at `sampling_rate`, in order."""
        ...

    def segments(self, sound: Sound, decoding: Values) -> Generator[Segment, None, Transcript]:
        """Transcribe one recording, yield its segments as they come, and return the transcript."""
        ...

    def check(self, decoding: Values) -> None:
        """Raise RecipeError for options that the model lacks."""
        ...

    def limit_tokens(self, tokens: int) -> None:
        """Limit the tokens decoded of a window to about `tokens`, to save time."""
        ...

    def force_tokens(self, tokens: int) -> bool:
        """Decode exactly `tokens` tokens of every window; return whether the model can."""
        ...


class FamilyModel:
    """A model of transformers, or one that acts as it, with its family's own functions.

    Attributes:
        model: The model.
        processor: Its feature extractor and tokenizer.
        family: The module of its family.
    """

    def __init__(self, model: Any, processor: Any, family: Family) -> None:
        self.model, self.processor, self.family = model, processor, family
        self.sampling_rate: int = family.sampling_rate(processor)
        self.window: int = family.window(processor)

    @property
    def functions(self) -> dict[str, Any] | None:
        """The built graphs by name."""
        functions: dict[str, Any] | None
        functions = getattr(getattr(self.model, "engine", None), "functions", None)
        return functions

    @property
    def vocabulary(self) -> int:
        """The number of tokens that have text."""
        return self.family.vocabulary(self.processor)

    def transcribe(self, sounds: Sequence[Sound], decoding: Values) -> list[Transcript]:
        """Transcribe recordings."""
        with quiet_libraries():
            return self.family.transcribe(self.model, self.processor, sounds, _recipes(decoding))

    def segments(self, sound: Sound, decoding: Values) -> Generator[Segment, None, Transcript]:
        """Transcribe a recording, yield its segments, and return the transcript."""
        (transcript,) = self.transcribe([sound], decoding)
        yield from transcript.segments
        return transcript

    def check(self, decoding: Values) -> None:
        """Check options against the model's configs."""
        self.family.check_decoding(self.family.configs(self.model), _recipes(decoding))

    def limit_tokens(self, tokens: int) -> None:
        """Limit the tokens of a window."""
        self.family.limit_tokens(self.model, tokens)

    def force_tokens(self, tokens: int) -> bool:
        """Force the tokens of a window, where the family can."""
        return self.family.force_tokens(self.model, tokens)


def _recipes(decoding: Values) -> Any:
    """Return checked options as a recipe has them."""
    from exporter.recipe import Decoding

    return Decoding.model_construct(**decoding)
