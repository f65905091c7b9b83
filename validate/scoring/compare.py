"""Score both sides' transcripts against the true texts; the texts are written to disk.

Only counts stay in memory: a few numbers per clip, whatever its length.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.artifact.report import CorpusFacts
from exporter.errors import DataError
from exporter.formats.clips import Clip
from exporter.validate.corpus.facts import Contents, ContentsTally, corpus_facts
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.transcripts import ClipResult, batches
from exporter.validate.scoring.normaliser import joined, same_letters
from exporter.validate.scoring.units import UnitCounter, Units
from exporter.validate.scoring.wer import Scores, loops, score, total

Normalise = Callable[[str], str | None]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
_BATCH = 256  # clips whose texts are in memory together


class Rows(Protocol):
    """Rows of predictions.jsonl, any of which can be read again."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Return the row of a clip."""


@dataclass(frozen=True)
class ModelOutput:
    """One model's measurement, its transcripts in the clips' order, and its size."""

    measurement: Measurement
    transcripts: Iterable[ClipResult]
    size_bytes: int


@dataclass(frozen=True)
class ScoredRun:
    """One model's measurement, its errors clip by clip, and counts over its texts.

    `kept_texts` are those that were heard in an earlier run.
    """

    measurement: Measurement
    scores: Scores
    size_bytes: int
    tokens: int = 0
    empty_texts: int = 0
    looping_texts: int = 0
    unusable_texts: int = 0
    kept_texts: int = 0

    @property
    def seconds(self) -> Floats:
        """Seconds of each timed clip, float64 [timed clips]."""
        return np.array(self.measurement.seconds, dtype=np.float64)


@dataclass(frozen=True)
class ClipTexts:
    """One clip's normalised texts."""

    id: str
    duration_s: float
    truth: str
    reference: str
    candidate: str


@dataclass(frozen=True)
class Comparison:
    """Both sides of a comparison, scored.

    Attributes:
        durations_s: Seconds of each clip, float64 [clips].
        timed: Indices of the timed clips, int64 [timed clips].
        reference: The original's run.
        candidate: The artifact's run.
        changed: Indices of clips whose transcripts differ, normalised or in a letter (see
            `normaliser.same_letters`), int64 [changed].
        newly_empty: Number of clips for which only the candidate's text is empty.
        newly_looping: Number of clips for which only the candidate's text repeats itself.
        newly_unusable: Number of clips for which only the candidate's text cannot be normalised.
        units: What a bootstrap over the clips resamples.
        rows: The rows of predictions.jsonl.
        normalise: The text normaliser, which unifies spellings; None for texts it cannot take.
        contents: What the corpus holds, as far as scoring it has counted; None: nothing was.
    """

    durations_s: Floats
    timed: Indices
    reference: ScoredRun
    candidate: ScoredRun
    changed: Indices
    newly_empty: int
    newly_looping: int
    newly_unusable: int
    units: Units
    rows: Rows
    normalise: Normalise
    contents: Contents | None = None

    def corpus_facts(self) -> CorpusFacts:
        """Return what is known of the corpus without its texts."""
        measured = self.reference.measurement
        return corpus_facts(
            self.contents or ContentsTally().contents(None),
            self.durations_s,
            self.reference.scores.words,
            measured.window_s,
            measured.vocabulary,
        )

    @property
    def timed_audio_s(self) -> float:
        """Seconds of audio in the timed clips."""
        return float(self.durations_s[self.timed].sum())

    def texts(self, index: int) -> ClipTexts:
        """Read the texts of a clip from the predictions."""
        row = self.rows[index]
        names = "text", "pred_text_reference", "pred_text"
        texts = (self.normalise(row[name]) or "" for name in names)
        return ClipTexts(row["audio_filepath"], float(self.durations_s[index]), *texts)


class _Tally:
    """Counts over one side's transcripts, accumulated batch by batch."""

    def __init__(self) -> None:
        self._scores: list[Scores] = []
        self._tokens = self._empty = self._looping = self._unusable = self._kept = 0

    def add(
        self, truth: Sequence[str], heard: Sequence[str | None], results: Sequence[ClipResult]
    ) -> list[bool]:
        """Count some clips; return for each whether its text repeats itself.

        A text that cannot be normalised, None, has none of the true words.
        """
        texts = [text or "" for text in heard]
        looping = [loops(joined(text)) for text in texts]
        self._unusable += sum(text is None for text in heard)
        self._scores.append(score(truth, texts))
        self._tokens += sum(result.tokens for result in results)
        self._kept += sum(result.kept for result in results)
        self._empty += sum(text == "" for text in heard)
        self._looping += sum(looping)
        return looping

    def run(self, output: ModelOutput) -> ScoredRun:
        """Return the scored run with the accumulated counts."""
        return ScoredRun(
            output.measurement,
            total(self._scores),
            output.size_bytes,
            self._tokens,
            self._empty,
            self._looping,
            self._unusable,
            self._kept,
        )


class _Tallies:
    """Counts over both sides, separately and compared."""

    def __init__(self, normalise: Normalise) -> None:
        self._normalise = normalise
        self.reference, self.candidate = _Tally(), _Tally()
        self.durations_s, self.changed = array("d"), array("q")
        self.newly_empty = self.newly_looping = self.newly_unusable = 0
        self.contents = ContentsTally()

    def add(self, batch: Sequence[tuple[Clip, ClipResult, ClipResult]]) -> None:
        """Count some clips."""
        clips, ours, theirs = zip(*batch, strict=True)
        left, right = ([self._normalise(each.text) for each in column] for column in (ours, theirs))
        truth = [self._truth(clip) for clip in clips]
        for clip, text, result in zip(clips, truth, ours, strict=True):
            self.contents.add(text, clip.language, result.distinct)
        known = self.reference.add(truth, left, ours)
        looping = self.candidate.add(truth, right, theirs)
        for place, texts in enumerate(zip(truth, left, right, strict=True)):
            self.newly_empty += bool(texts[0] and texts[1] and texts[2] == "")
            self.newly_unusable += texts[1] is not None and texts[2] is None
            if looping[place] and not known[place]:
                self.newly_looping += not loops(joined(texts[0]))
            if texts[1] != texts[2] or _other_text(ours[place].text, theirs[place].text, texts[1]):
                self.changed.append(len(self.durations_s) + place)
        self.durations_s.extend(clip.duration_s for clip in clips)

    def _truth(self, clip: Clip) -> str:
        text = self._normalise(clip.text)
        if text is None:
            msg = f"{clip.where or clip.id}: its text cannot be normalised"
            raise DataError(msg)
        return text


def _other_text(ours: str, theirs: str, normalised: str | None) -> bool:
    """Return whether two texts are different ones, though a normaliser makes both `normalised`."""
    if normalised is None:
        return ours != theirs
    return not same_letters(ours, theirs)


def compare(
    clips: Iterable[Clip],
    timed: Sequence[int],
    reference: ModelOutput,
    candidate: ModelOutput,
    normalise: Normalise,
    *,
    rows: Rows,
    write: Callable[[dict[str, Any]], None],
    sounds: Indices | None = None,
) -> Comparison:
    """Count both sides' errors, and write a row of predictions.jsonl for each clip.

    Args:
        clips: All clips; iterated once.
        timed: The indices of the timed clips, in the order of the measurements.
        reference: The output of the original.
        candidate: The output of the artifact.
        normalise: Applied to the true texts and to both sides.
        rows: Random access to the rows that `write` has written.
        write: Called with each clip's row.
        sounds: A number for each clip's sound, the same for copies, int64 [clips]; None if no clip
            is known to be a copy.

    Returns:
        Both sides, scored.

    Raises:
        DataError: No clip has a word in its true text.
    """
    tallies = _Tallies(normalise)
    units = UnitCounter()
    seconds = _seconds(timed, reference.measurement, candidate.measurement)
    triples = zip(clips, reference.transcripts, candidate.transcripts, strict=True)
    for batch in batches(triples, _BATCH):
        for place, triple in enumerate(batch, len(tallies.durations_s)):
            origin = units.add(triple[0].speaker, triple[0].recording)
            write(_row(*triple, seconds.get(place, (None, None)), origin))
        tallies.add(batch)
    return Comparison(
        durations_s=np.array(tallies.durations_s, dtype=np.float64),
        timed=np.array(timed, dtype=np.int64),
        reference=tallies.reference.run(reference),
        candidate=tallies.candidate.run(candidate),
        changed=np.array(tallies.changed, dtype=np.int64),
        newly_empty=tallies.newly_empty,
        newly_looping=tallies.newly_looping,
        newly_unusable=tallies.newly_unusable,
        units=units.units if sounds is None else units.units.with_copies(sounds),
        rows=rows,
        normalise=normalise,
        contents=tallies.contents.contents(sounds),
    )


def _seconds(
    timed: Sequence[int], reference: Measurement, candidate: Measurement
) -> dict[int, tuple[float, float]]:
    both = zip(reference.seconds, candidate.seconds, strict=True)
    return dict(zip(timed, both, strict=True))


def _row(
    clip: Clip,
    reference: ClipResult,
    candidate: ClipResult,
    seconds: tuple[float | None, float | None],
    origin: tuple[int | None, int | None],
) -> dict[str, Any]:
    """Return a row in Open ASR's field names, enough to score again; untimed is null.

    Speakers and recordings are numbered: their names may be those of people.
    """
    named = zip(("speaker", "recording"), origin, strict=True)
    return {
        "audio_filepath": clip.id,
        "duration": round(clip.duration_s, 4),
        "language": clip.language,
        "text": clip.text,
        "pred_text": candidate.text,
        "time": seconds[1],
        "tokens": candidate.tokens,
        "pred_text_reference": reference.text,
        "time_reference": seconds[0],
        "tokens_reference": reference.tokens,
        **{name: number for name, number in named if number is not None},
    }
