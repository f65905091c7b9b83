"""What a bootstrap resamples: speakers where the data tell them, else recordings, else clips.

Clips of one speaker go wrong together. Resampled as if they were independent, their interval is too
narrow: docs/validation.md has the rates of false passes.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exporter.artifact.report import UnitStamp
from exporter.validate.scoring.statistics import Indices

# With fewer, a bootstrap over speakers is itself too narrow.
LEAST_UNITS = 15


@dataclass(frozen=True)
class Units:
    """The units of a corpus.

    Attributes:
        stamp: What they are, how many there are, and why.
        index: The unit of each clip, from 0, int64 [clips]; None if each clip is one.
    """

    stamp: UnitStamp
    index: Indices | None

    def with_copies(self, sounds: Indices) -> "Units":
        """Return units in which copies of a recording are one, if clips are the units.

        Args:
            sounds: A number for each clip's sound, the same for copies, int64 [clips].
        """
        different, index = np.unique(sounds, return_inverse=True)
        if self.index is not None or len(different) == len(sounds):
            return self
        sentence = f"{self.stamp.sentence} Copies of a recording were resampled together."
        stamp = self.stamp.model_copy(update={"count": len(different), "sentence": sentence})
        return Units(stamp, index.astype(np.int64))


class UnitCounter:
    """Collects the speakers and recordings of clips; 8 bytes a clip, and each name once."""

    def __init__(self) -> None:
        self._speakers, self._recordings = _Names(), _Names()

    def add(self, speaker: str | None, recording: str | None) -> tuple[int | None, int | None]:
        """Count a clip; return the numbers of its speaker and recording, by first appearance."""
        return self._speakers.add(speaker), self._recordings.add(recording)

    @property
    def units(self) -> Units:
        """The units of all clips that were added."""
        speakers, recordings = self._speakers, self._recordings
        clips = len(speakers.places)
        lacking = speakers.lacking(clips)
        if not lacking:
            return _units("speaker", speakers, f"{len(speakers.known)} speakers were resampled.")
        if not recordings.lacking(clips):
            told = f"{len(recordings.known)} recordings were resampled: {lacking}."
            return _units("recording", recordings, told)
        stamp = UnitStamp(
            name="clip", count=clips, sentence=f"Clips count as independent: {lacking}."
        )
        return Units(stamp, None)


def units_of(origins: Iterable[tuple[str | None, str | None]]) -> Units:
    """Return the units of clips, given the speaker and the recording of each."""
    counter = UnitCounter()
    for origin in origins:
        counter.add(*origin)
    return counter.units


class _Names:
    """The names of one kind, numbered by first appearance."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.places = array("i")

    def add(self, name: str | None) -> int | None:
        number = None if name is None else self.known.setdefault(name, len(self.known))
        self.places.append(-1 if number is None else number)
        return number

    def lacking(self, clips: int) -> str:
        """Return why these names cannot be resampled; empty if they can."""
        unnamed = self.places.count(-1)
        if unnamed == clips:
            return "the data name no speakers"
        if unnamed:
            return f"{unnamed:,} of {clips:,} clips name no speaker"
        if len(self.known) < LEAST_UNITS:
            speakers = "1 speaker is" if len(self.known) == 1 else f"{len(self.known)} speakers are"
            return f"{speakers} too few to resample ({LEAST_UNITS} are needed)"
        return ""


def _units(name: Literal["speaker", "recording"], names: _Names, sentence: str) -> Units:
    stamp = UnitStamp(name=name, count=len(names.known), sentence=sentence)
    return Units(stamp, np.array(names.places, dtype=np.int64))
