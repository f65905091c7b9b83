"""Drop segments that a model invented in silence, by their words.

Source: `hallucination_silence_threshold` of openai-whisper, `transcribe.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from exporter.runtime.transcript import Word
from exporter.runtime.words.timing import AFTER, BEFORE, Span, last_word_s

_FRAMES = 100  # a second
_UNLIKELY, _SHORT_S, _LONG_S = 0.15, 0.133, 2.0  # of a word
_SHORTNESS = 15  # points for each second that a word is too short
_FIRST_WORDS, _MOST_POINTS, _ROUNDING = 8, 3.0, 0.01
_EDGE_S = 2.0  # at a window's edges, silence around a segment is not seen
_LEAST_S = 1.0  # how far a window with a dropped segment moves on
_LEAST_FRAMES = 10  # how far any does: openai-whisper may stay where it is


@dataclass(frozen=True)
class Place:
    """Where a window lies, in frames of 10 ms.

    Attributes:
        seek: Its first frame.
        frames: Its frames that hold sound.
        size: Its frames, silence after the sound included.
        heard: The recording's frames.
    """

    seek: int
    frames: int
    size: int
    heard: int

    @property
    def start_s(self) -> float:
        """Where it begins."""
        return self.seek / _FRAMES

    @property
    def end_s(self) -> float:
        """Where it ends."""
        return (self.seek + self.size) / _FRAMES


def without_hallucinations(
    spans: Sequence[Span],
    threshold_s: float,
    place: Place,
    moved: int,
    last_s: float,
    *,
    single: bool,
) -> tuple[int, int]:
    """Tell which segments of a window are spoken, and where the next window begins.

    Args:
        spans: The segments with their words.
        threshold_s: Silence longer than this is skipped, and surrounds what was invented.
        place: Where the window lies.
        moved: The frames to the next window, by the timestamps.
        last_s: Where the last word before the window ends.
        single: Whether a single timestamp ends the text, after which nobody speaks.

    Returns:
        How many segments are kept, the first ones, and the frames to the next window.
    """
    if not single:
        moved = _after_words(spans, threshold_s, place, moved)
    first = _first_with_words(spans)
    if first is not None and is_anomaly(first):
        gap_s = first.start_s - place.start_s
        if gap_s > threshold_s:
            return 0, max(round(gap_s * _FRAMES), _LEAST_FRAMES)
    for number, span in enumerate(spans):
        if not span.words:
            continue
        if is_anomaly(span) and _is_alone(spans, number, threshold_s, place, last_s):
            if place.heard / _FRAMES - span.end_s < threshold_s:
                return number, place.heard - place.seek
            begin_s = max(place.start_s + _LEAST_S, span.start_s)
            return number, round(begin_s * _FRAMES) - place.seek
        last_s = span.end_s
    return len(spans), max(moved, _LEAST_FRAMES)


def is_anomaly(span: Span | None) -> bool:
    """Return whether the first words of a segment are too unlikely, too short or too long."""
    if span is None or not span.words:
        return False
    words = [word for word in span.words if word.text not in BEFORE + AFTER][:_FIRST_WORDS]
    points = sum(map(_points, words))
    return points >= _MOST_POINTS or points + _ROUNDING >= len(words)


def _points(word: Word) -> float:
    points = 1.0 if word.probability < _UNLIKELY else 0.0
    points += max(_SHORT_S - word.duration_s, 0.0) * _SHORTNESS
    return points + max(word.duration_s - _LONG_S, 0.0)


def _after_words(spans: Sequence[Span], threshold_s: float, place: Place, moved: int) -> int:
    """Return the frames to the next window: to the last word's end, if much silence follows."""
    end_s = last_word_s(spans, place.start_s)
    if end_s <= place.start_s:
        return moved
    if place.end_s - end_s > threshold_s:
        return round(end_s * _FRAMES) - place.seek
    return place.frames


def _is_alone(
    spans: Sequence[Span], number: int, threshold_s: float, place: Place, last_s: float
) -> bool:
    """Return whether silence, or what was invented too, surrounds a segment."""
    span, following = spans[number], _first_with_words(spans[number + 1 :])
    next_s = place.start_s + place.frames / _FRAMES
    if following is not None:
        next_s = following.words[0].start_s
    before = (
        span.start_s - last_s > threshold_s
        or span.start_s < threshold_s
        or span.start_s - place.start_s < _EDGE_S
    )
    after = (
        next_s - span.end_s > threshold_s
        or is_anomaly(following)
        or place.end_s - span.end_s < _EDGE_S
    )
    return before and after


def _first_with_words(spans: Sequence[Span]) -> Span | None:
    return next((span for span in spans if span.words), None)
