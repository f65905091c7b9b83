"""Times and probabilities of the words of a window, and their segments.

Source: `add_word_timestamps` and `merge_punctuations` of openai-whisper, `timing.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.transcript import Word
from exporter.runtime.whisper.engine import Engine, Scores
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.text import Text
from exporter.runtime.words.alignment import attended, first_places
from exporter.runtime.words.splitting import words_of

BEFORE, AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
"""Punctuation that belongs to the word after it, and to the word before it."""

_SENTENCE_ENDS = ".。!！?？"  # noqa: RUF001
_STEP_S = 0.02
_LONGEST_S = 0.7  # the most that words are taken to last usually
_PAUSE = 4  # usual words: after such a pause, words are taken to begin late
_SURE_S = 0.5  # a segment's own times are preferred to words that reach so far beyond them


@dataclass
class Timing:
    """A word; times are in seconds from the window's start."""

    text: str
    tokens: list[int]
    start_s: float
    end_s: float
    probability: float

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


@dataclass
class Span:
    """A segment: its times in seconds of the recording, the tokens that have text, its words."""

    start_s: float
    end_s: float
    tokens: Sequence[int]
    words: list[Word] = field(default_factory=list)


class Aligner:
    """Finds the words of windows."""

    def __init__(self, engine: Engine, settings: Settings, text: Text, task: str | None) -> None:
        self._engine, self._settings, self._text, self._task = engine, settings, text, task
        size = settings.vocabulary
        unnamed = range(max(text.ids, default=-1) + 1, size)  # outputs that are no tokens
        self._silent = np.array([*(n for n in text.silent if n < size), *unnamed], np.int64)
        self._codes = {token: code for code, token in settings.languages.items()}

    def span(self, start_s: float, end_s: float, tokens: Sequence[int]) -> Span:
        """Return a segment without words."""
        return Span(start_s, end_s, self._text.spoken(tokens))

    def fill(
        self,
        spans: Sequence[Span],
        encoded: Any,
        window: int,
        language: int | None,
        frames: int,
        offset_s: float,
        last_s: float,
    ) -> None:
        """Give segments of a window their words, and the times of these.

        Args:
            spans: The segments, in order.
            encoded: What the engine encoded.
            window: The window among that.
            language: The language's token; None for an English-only checkpoint.
            frames: The window's frames that hold sound.
            offset_s: Where the window begins.
            last_s: Where the last word before it ended.
        """
        tokens = [token for span in spans for token in span.tokens]
        timings = self._timings(encoded, window, tokens, language, frames)
        usual_s = _usual_s(timings)
        _shorten_at_sentences(timings, 2 * usual_s)
        merge_punctuation(timings)
        left = iter(timings)
        for span in spans:
            span.words = [*_taken(left, len(span.tokens), offset_s)]
            if span.words:
                _fit(span, usual_s, last_s)
                last_s = span.end_s

    def _timings(
        self, encoded: Any, window: int, tokens: list[int], language: int | None, frames: int
    ) -> list[Timing]:
        """Return the words of tokens, before punctuation is merged."""
        if not tokens:
            return []
        settings = self._settings
        prompt = settings.init(language, self._task, timestamps=False)
        given = [*prompt, *tokens, settings.ends[0]][: settings.positions]
        heads = settings.alignment_heads
        attention = self._engine.attend(encoded, window, np.array(given, np.int64), heads)
        length = min(max(frames // 2, 1), attention.keys.shape[-1])
        # A token is foretold where the one before it is given.
        rows = slice(len(prompt) - 1, len(prompt) + len(tokens))
        times_s = first_places(attended(attention, length)[rows]) * _STEP_S
        chances = _chances(attention.logits[rows][: len(tokens)], tokens, self._silent)
        code = None if language is None else self._codes.get(language)
        timings, begin = [], 0
        for word in words_of(self._text, tokens, code):
            end = begin + len(word.tokens)
            start_s, end_s = float(times_s[begin]), float(times_s[end])
            chance = float(chances[begin:end].mean())
            timings.append(Timing(word.text, word.tokens, start_s, end_s, chance))
            begin = end
        return timings


def last_word_s(spans: Sequence[Span], before_s: float) -> float:
    """Return where the last word of segments ends, or their last one if there is none.

    Args:
        spans: The segments of a window.
        before_s: What is returned if there is no segment.
    """
    ends = [word.end_s for span in spans for word in span.words]
    return ends[-1] if ends else spans[-1].end_s if spans else before_s


def merge_punctuation(timings: Sequence[Timing]) -> None:
    """Join punctuation with the word that it belongs to; it loses its own text and tokens."""
    following = len(timings) - 1
    for place in range(len(timings) - 2, -1, -1):
        mark, word = timings[place], timings[following]
        if mark.text.startswith(" ") and mark.text.strip() in BEFORE:
            word.text, word.tokens = mark.text + word.text, mark.tokens + word.tokens
            mark.text, mark.tokens = "", []
        else:
            following = place
    before = 0
    for place in range(1, len(timings)):
        word, mark = timings[before], timings[place]
        if not word.text.endswith(" ") and mark.text in AFTER:
            word.text, word.tokens = word.text + mark.text, word.tokens + mark.tokens
            mark.text, mark.tokens = "", []
        else:
            before = place


def _chances(logits: Scores, tokens: Sequence[int], silent: NDArray[Any]) -> Scores:
    """Return the probability of each token among those that have text; `logits` are changed."""
    logits[:, silent] = -np.inf
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    chances: Scores = logits[np.arange(len(tokens)), tokens] / logits.sum(-1)
    return chances


def _usual_s(timings: Sequence[Timing]) -> float:
    """Return how long words last, by the median; 0 without any that lasts."""
    lasting = [one.duration_s for one in timings if one.duration_s]
    return min(_LONGEST_S, float(np.median(lasting))) if lasting else 0.0


def _shorten_at_sentences(timings: Sequence[Timing], most_s: float) -> None:
    """Shorten words at the ends of sentences, which pauses make long."""
    for before, one in pairwise(timings):
        if not most_s or one.duration_s <= most_s:
            continue
        if one.text in _SENTENCE_ENDS:
            one.end_s = one.start_s + most_s
        elif before.text in _SENTENCE_ENDS:
            one.start_s = one.end_s - most_s


def _taken(left: Iterator[Timing], tokens: int, offset_s: float) -> Iterator[Word]:
    """Yield the next words, of so many tokens."""
    taken = 0
    while taken < tokens and (one := next(left, None)) is not None:
        taken += len(one.tokens)
        if one.text:
            start_s, end_s = (round(offset_s + each, 2) for each in (one.start_s, one.end_s))
            yield Word(start_s, end_s, one.text, one.probability)


def _fit(span: Span, usual_s: float, last_s: float) -> None:
    """Shorten words that reach into pauses around a segment, and set the segment's times."""
    words = span.words
    if words[0].end_s - last_s > _PAUSE * usual_s:
        _shorten_after_pause(words, 2 * usual_s)
    first, start_s = words[0], span.start_s
    if start_s < first.end_s and start_s - _SURE_S > first.start_s:
        words[0] = replace(first, start_s=max(0.0, min(first.end_s - usual_s, start_s)))
    last, end_s = words[-1], span.end_s
    if end_s > last.start_s and end_s + _SURE_S < last.end_s:
        words[-1] = replace(last, end_s=max(last.start_s + usual_s, end_s))
    _order(words, last_s)
    span.start_s, span.end_s = words[0].start_s, words[-1].end_s


def _shorten_after_pause(words: list[Word], most_s: float) -> None:
    first, second = words[0], words[1] if len(words) > 1 else None
    long = first.duration_s > most_s
    if not long and (second is None or second.end_s - first.start_s <= 2 * most_s):
        return
    if second is not None and second.duration_s > most_s:
        boundary_s = max(second.end_s / 2, second.end_s - most_s)
        first = replace(first, end_s=boundary_s)
        words[1] = replace(second, start_s=boundary_s)
    words[0] = replace(first, start_s=max(0.0, first.end_s - most_s))


def _order(words: list[Word], last_s: float) -> None:
    """Let no word begin before the one before it ends, which shortening may have changed."""
    for place, one in enumerate(words):
        start_s = max(one.start_s, last_s)
        words[place] = replace(one, start_s=start_s, end_s=max(one.end_s, start_s))
        last_s = words[place].end_s
