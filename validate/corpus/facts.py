"""What a corpus is and exercises: distinct sounds and texts, durations, tokens, languages."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from exporter.artifact.report import CorpusFacts

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
LENGTHS = (
    ("under 5 s", 5.0),
    ("5 to 15 s", 15.0),
    ("15 to 30 s", 30.0),
    ("over 30 s", float("inf")),
)
"""Ranges of durations: their names and upper ends in seconds."""
_MOST_LANGUAGES = 100
# Whisper's paper (Radford et al., 2022, appendix D): on read English, tiny models stay below 20 %
# WER, and on most languages of FLEURS with a thousand hours of training data, below 40 %.
_PLAUSIBLE = {"whisper": 0.4}
_PLAUSIBLE_ENGLISH = {"whisper": 0.25}
_SMALL_VOCABULARY = 0.05


@dataclass(frozen=True)
class Contents:
    """What was counted while a corpus was scored.

    Attributes:
        sounds: A number for each clip's sound, the same for copies, int64 [clips]; empty: no clip
            is a copy.
        texts: A number for each normalised true text, the same for equal ones, int64 [clips].
        tokens: Distinct tokens in the original's transcripts.
        languages: Clips by the language that the data name; "" for none.
    """

    sounds: Indices
    texts: Indices
    tokens: int = 0
    languages: dict[str, int] = field(default_factory=dict)


class ContentsTally:
    """Counts contents clip by clip: 8 bytes a clip stay in memory."""

    def __init__(self) -> None:
        self._texts = array("q")
        self._tokens: set[int] = set()
        self._languages: Counter[str] = Counter()

    def add(self, text: str, language: str | None, tokens: Sequence[int]) -> None:
        """Count a clip: its normalised true text, its language, and the original's tokens."""
        digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
        self._texts.append(int.from_bytes(digest, signed=True))
        self._tokens.update(tokens)
        self._languages[language or ""] += 1

    def contents(self, sounds: Indices | None) -> Contents:
        """Return the counts, with the numbers of the clips' sounds if they are known."""
        return Contents(
            np.empty(0, dtype=np.int64) if sounds is None else sounds,
            np.array(self._texts, dtype=np.int64),
            len(self._tokens),
            dict(self._languages.most_common(_MOST_LANGUAGES)),
        )


def distinct(numbers: Indices, clips: int) -> int:
    """Count the distinct numbers of `clips` clips; where there are none, all are distinct."""
    return len(np.unique(numbers)) if len(numbers) else clips


def plausible_wer(family: str, language: str | None) -> float:
    """Return what the original's WER seldom exceeds; 0 for a family without experience."""
    table = _PLAUSIBLE_ENGLISH if (language or "").lower() in ("en", "english") else _PLAUSIBLE
    return table.get(family, 0.0)


def corpus_facts(
    contents: Contents, durations_s: Floats, words: Indices, window_s: float, vocabulary: int
) -> CorpusFacts:
    """Return the facts of a corpus, and what it cannot show.

    Args:
        contents: What was counted while scoring.
        durations_s: Seconds of each clip, float64 [clips].
        words: Words of each true text, int64 [clips].
        window_s: Seconds of the model's window; 0 if it is not known.
        vocabulary: Tokens of text that the model has; 0 if it is not known.
    """
    clips = len(durations_s)
    facts = CorpusFacts(
        recordings=distinct(contents.sounds, clips),
        texts=distinct(contents.texts, clips),
        wordless=int((words == 0).sum()),
        window_s=window_s,
        over_window=int((durations_s > window_s).sum()) if window_s else 0,
        under_1_s=int((durations_s < 1).sum()),
        lacking=_lacking(durations_s),
        tokens=contents.tokens,
        vocabulary=vocabulary,
        languages=contents.languages,
    )
    return facts.model_copy(update={"notes": tuple(_notes(facts, clips))})


def _lacking(durations_s: Floats) -> tuple[str, ...]:
    ends = [most for _, most in LENGTHS[:-1]]
    present = {*np.digitize(durations_s, ends).tolist()}
    return tuple(name for place, (name, _) in enumerate(LENGTHS) if place not in present)


def _notes(facts: CorpusFacts, clips: int) -> list[str]:
    """Return a sentence for each thing that the clips do not show."""
    notes = []
    if facts.recordings < clips:
        notes.append(
            f"{clips} clips are {facts.recordings} different recordings: copies count once."
        )
    if facts.texts < clips / 2:
        notes.append(f"{clips} clips have only {facts.texts} different texts.")
    if facts.wordless:
        notes.append(f"{facts.wordless} true texts have no word.")
    if facts.lacking:
        notes.append(f"No clip lasts {_or(facts.lacking)}.")
    if facts.window_s and not facts.over_window:
        window = f"{facts.window_s:g} s"
        notes.append(f"No clip exceeds the window of {window}: long recordings were not judged.")
    if facts.tokens < _SMALL_VOCABULARY * facts.vocabulary:
        notes.append(
            f"The original's transcripts use {facts.tokens:,} of {facts.vocabulary:,} tokens: "
            "words that these clips lack were not judged."
        )
    return notes


def _or(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
