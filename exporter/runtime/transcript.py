"""Transcripts: text, tokens and timed segments, as plain data."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.formats.audio import LongAudio

Audio = NDArray[np.float32]
"""Mono samples in [-1, 1], shape [samples], at the checkpoint's sampling rate."""

Sound = Audio | LongAudio
"""A recording to transcribe: all of its samples, or a long file that is decoded in blocks."""

_SHOWN = 60  # characters of a text in `repr`


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
    """

    start_s: float
    end_s: float
    text: str
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("start_s", "end_s"):
            object.__setattr__(self, name, round(getattr(self, name), 3))

    def until(self, end_s: float) -> "Segment":
        """Return the segment with no time after the recording's end."""
        return replace(self, start_s=min(self.start_s, end_s), end_s=min(self.end_s, end_s))

    def to_dict(self) -> dict[str, Any]:
        """Return the segment as JSON has it, without what was not computed."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, repr=False)
class Transcript:
    """One recording's text, which is also its `str`.

    `tokens` are the generated ids, special tokens left out.
    """

    text: str
    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]

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
        segments = [segment.to_dict() for segment in self.segments]
        return {"text": self.text, "tokens": list(self.tokens), "segments": segments}
