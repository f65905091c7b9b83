"""Transcripts: text, tokens and timed segments, as plain data."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from exporter.formats.audio import LongAudio

Audio = NDArray[np.float32]
"""Mono samples in [-1, 1], shape [samples], at the checkpoint's sampling rate."""

Sound = Audio | LongAudio
"""A recording to transcribe: all of its samples, or a long file that is decoded in blocks."""

_SHOWN = 60  # characters of a text in `repr`


@dataclass(frozen=True)
class Word:
    """A word; times are in seconds from the start of the recording, rounded to milliseconds.

    Attributes:
        start_s: Where it begins.
        end_s: Where it ends.
        text: Its text, with the space before it: the words of a segment, joined, are its text.
        probability: The probability of its tokens, on average.
    """

    start_s: float
    end_s: float
    text: str
    probability: float

    def __post_init__(self) -> None:
        _round_times(self)

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Segment:
    """A segment of speech; times are in seconds from the start of the recording.

    They are rounded to milliseconds.

    Attributes:
        start_s: Where it begins.
        end_s: Where it ends.
        text: Its text.
        avg_logprob: The average log-probability of its window's tokens.
        no_speech_prob: The probability that its window holds no speech.
        compression_ratio: How much smaller its window's text becomes when it is compressed.
        temperature: At which its window was decoded. Each is None if no option asks for it.
        words: Its words; None if `word_timestamps` does not ask for them.
    """

    start_s: float
    end_s: float
    text: str
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None
    words: tuple[Word, ...] | None = None

    def __post_init__(self) -> None:
        _round_times(self)

    def until(self, end_s: float) -> "Segment":
        """Return the segment with no time after the recording's end."""
        words = None if self.words is None else tuple(_until(one, end_s) for one in self.words)
        return replace(_until(self, end_s), words=words)

    def after(self, offset_s: float) -> "Segment":
        """Return the segment with all times later by so many seconds."""
        return self.moved(lambda time_s: time_s + offset_s, lambda time_s: time_s + offset_s)

    def moved(self, start: Callable[[float], float], end: Callable[[float], float]) -> "Segment":
        """Return the segment with other times: of what begins, and of what ends."""
        words = None if self.words is None else tuple(_moved(w, start, end) for w in self.words)
        return replace(_moved(self, start, end), words=words)

    def to_dict(self) -> dict[str, Any]:
        """Return the segment as JSON has it, without what was not computed."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known if self.words is None else {**known, "words": [*known["words"]]}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Segment":
        """Return the segment that `to_dict` gave."""
        words = values.get("words")
        named = None if words is None else tuple(Word(**each) for each in words)
        return cls(**{**values, "words": named})


_Timed = TypeVar("_Timed", Word, Segment)


def _round_times(timed: Word | Segment) -> None:
    for name in ("start_s", "end_s"):
        object.__setattr__(timed, name, round(getattr(timed, name), 3))


def _moved(timed: _Timed, start: Callable[[float], float], end: Callable[[float], float]) -> _Timed:
    start_s = start(timed.start_s)
    return replace(timed, start_s=start_s, end_s=max(start_s, end(timed.end_s)))


def _until(timed: _Timed, end_s: float) -> _Timed:
    start_s, end_s = min(timed.start_s, end_s), min(timed.end_s, end_s)
    return replace(timed, start_s=start_s, end_s=end_s)


@dataclass(frozen=True, repr=False)
class Transcript:
    """One recording's text, which is also its `str`.

    Attributes:
        text: The text.
        tokens: The generated ids, special tokens left out.
        segments: The segments.
        language: The code of the language that it was decoded as, given or found, like "en"; None
            for a model without languages.
        language_probability: The probability of a language that was found, by an artifact; else
            None. It differs by rounding, so it does not count when transcripts are compared.
    """

    text: str
    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]
    language: str | None = None
    language_probability: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"Transcript({text!r}, {len(self.segments)} segments, {len(self.tokens)} tokens)"

    def until(self, end_s: float) -> "Transcript":
        """Return the transcript with no time after the recording's end."""
        return replace(self, segments=tuple(one.until(end_s) for one in self.segments))

    def to_dict(self) -> dict[str, Any]:
        """Return the transcript as JSON has it: dictionaries, lists, texts and numbers."""
        known = {"language": self.language, "language_probability": self.language_probability}
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            **{name: value for name, value in known.items() if value is not None},
            "segments": [segment.to_dict() for segment in self.segments],
        }

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Transcript":
        """Return the transcript that `to_dict` gave."""
        segments = tuple(map(Segment.of_dict, values["segments"]))
        return cls(**{**values, "tokens": tuple(values["tokens"]), "segments": segments})
