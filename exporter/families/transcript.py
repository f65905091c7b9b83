"""Transcripts: text, tokens and timed segments, as plain data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.formats.audio import LongAudio

Audio = NDArray[np.float32]
"""Mono samples in [-1, 1], shape [samples], at the checkpoint's sampling rate."""

Sound = Audio | LongAudio
"""A recording to transcribe: all of its samples, or a long file that is decoded in blocks."""


@dataclass(frozen=True)
class Segment:
    """A segment of speech; times are in seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """One recording's text, which is also its `str`.

    `tokens` are the generated ids, special tokens left out.
    """

    text: str
    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        return self.text
