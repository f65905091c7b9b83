"""Cues of subtitles: a segment each, or lines of timed words.

Source: `SubtitlesWriter` of openai-whisper, `utils.py`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter.runtime.transcript import Segment, Transcript, Word

_PAUSE_S = 3.0  # after which a cue that may span segments ends
_MANY = 1000  # no limit
_WORD = re.compile(r"^(\s*)(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """How words are laid out in cues; without any of these, a segment is a cue.

    Attributes:
        max_line_width: The most characters of a line; None: no limit.
        max_line_count: The most lines of a cue. With it and a width, cues span segments.
        max_words_per_line: The most words of a line.
        highlight_words: Underline each word while it is spoken, in a cue of its own.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None
    highlight_words: bool = False


PLAIN = Layout()
"""A cue for each segment."""


@dataclass(frozen=True)
class Cue:
    """A text of one or more lines, and when it is shown."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class _Placed:
    """A word, and its text in a cue."""

    word: Word
    text: str


def cues(transcript: Transcript, layout: Layout, escape: Callable[[str], str]) -> Iterator[Cue]:
    """Yield the cues of a transcript.

    Args:
        transcript: With words, if the layout has anything to lay out.
        layout: How they are laid out.
        escape: Makes a text harmless in the format.
    """
    if layout == PLAIN:
        for one in transcript.segments:
            yield Cue(one.start_s, one.end_s, escape(one_line(one.text)))
        return
    for placed in _Lines(layout).cues(transcript.segments):
        texts = [escape(one.text) for one in placed]
        words = [one.word for one in placed]
        if layout.highlight_words:
            yield from _highlighted(words, texts)
        else:
            yield Cue(words[0].start_s, words[-1].end_s, "".join(texts))


def one_line(text: str) -> str:
    """Return a text without line ends and tabs, which would begin something else."""
    return " ".join(text.split())


class _Lines:
    """Puts words into lines, and lines into cues."""

    def __init__(self, layout: Layout) -> None:
        self._width = layout.max_line_width or _MANY
        self._most = layout.max_line_count
        self._words = layout.max_words_per_line or _MANY
        # Else a cue may go on with the next segment.
        self._apart = layout.max_line_count is None or layout.max_line_width is None
        self._cue: list[_Placed] = []
        self._lines, self._length, self._last_s = 1, 0, 0.0

    def cues(self, segments: tuple[Segment, ...]) -> Iterator[list[_Placed]]:
        """Yield the words of each cue."""
        spoken = [segment.words for segment in segments if segment.words]
        self._last_s = spoken[0][0].start_s if spoken else 0.0
        for words in spoken:
            for place, word in enumerate(words):
                yield from self._placed(word, first=place % self._words == 0)
        if self._cue:
            yield self._cue

    def _placed(self, word: Word, *, first: bool) -> Iterator[list[_Placed]]:
        """Place a word; yield the cue before it if that ends. `first`: of a segment or a line."""
        text = " " + one_line(word.text) if word.text[:1].isspace() else one_line(word.text)
        pause = not self._apart and word.start_s - self._last_s > _PAUSE_S
        fits = self._length + len(text) <= self._width
        ends = first and bool(self._cue) and self._apart
        if self._length and fits and not pause and not ends:
            self._length += len(text)
        else:
            text = text.strip()
            full = self._most is not None and (pause or self._lines >= self._most)
            if ends or (self._cue and full):
                yield self._cue
                self._cue, self._lines = [], 1
            elif self._length:
                self._lines += 1
                text = "\n" + text
            self._length = len(text.strip())
        self._cue.append(_Placed(word, text))
        self._last_s = word.start_s


def _highlighted(words: list[Word], texts: list[str]) -> Iterator[Cue]:
    """Yield a cue for each word, underlined, and for each pause between two."""
    last_s = words[0].start_s
    for place, word in enumerate(words):
        if last_s != word.start_s:
            yield Cue(last_s, word.start_s, "".join(texts))
        marked = _WORD.sub(r"\1<u>\2</u>", texts[place], count=1)
        yield Cue(word.start_s, word.end_s, "".join([*texts[:place], marked, *texts[place + 1 :]]))
        last_s = word.end_s
