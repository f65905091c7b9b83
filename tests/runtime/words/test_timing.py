"""Times of words and segments, against openai-whisper's own statements."""

from typing import Any

import numpy as np
import pytest

from exporter.runtime.words import timing
from exporter.runtime.words.timing import Span, Timing
from tests.support.openai_timing import WordTiming, add_word_timestamps

MARKS = [".", ",", "?", "!", "。", ' "', '"', " (", ")", " -"]


def drawn(seed: int) -> tuple[list[tuple[str, list[int], float, float]], list[tuple[Any, ...]]]:
    """Words in order, some long, some marks; and segments of their tokens."""
    random = np.random.default_rng(seed)
    at, words, number = 0.0, [], 0
    for _ in range(int(random.integers(1, 14))):
        lasts = float(random.choice([0.0, 0.1, 0.3, 0.5, 1.5, 4.0]))
        mark = random.random() < 0.3
        text = str(random.choice(MARKS)) if mark else f" w{number}"
        tokens = list(range(number, number + int(random.integers(1, 4))))
        words.append((text, tokens, round(at, 2), round(at + lasts, 2)))
        at, number = at + lasts, number + len(tokens)
    pieces = np.array_split(np.arange(number), int(random.integers(1, 4)))
    edges = np.sort(random.uniform(0, at + 1, 2 * len(pieces))).round(2)
    segments = [
        (float(edges[2 * n]), float(edges[2 * n + 1]), piece.tolist())
        for n, piece in enumerate(pieces)
    ]
    return words, segments


def ours(seed: int, offset_s: float, last_s: float) -> list[Span]:
    words, segments = drawn(seed)
    aligner = object.__new__(timing.Aligner)
    timings = [Timing(w, [*t], s, e, 0.5) for w, t, s, e in words]
    aligner._timings = lambda *_: timings  # type: ignore[method-assign]
    spans = [Span(offset_s + s, offset_s + e, t) for s, e, t in segments]
    aligner.fill(spans, None, 0, None, 3000, offset_s, last_s)
    return spans


def theirs(seed: int, offset_s: float, last_s: float) -> list[dict[str, Any]]:
    words, segments = drawn(seed)
    rows = [{"start": offset_s + s, "end": offset_s + e, "tokens": t} for s, e, t in segments]
    add_word_timestamps(
        rows, [WordTiming(w, [*t], s, e, 0.5) for w, t, s, e in words], offset_s, last_s
    )
    return rows


def is_ordered(rows: list[dict[str, Any]], last_s: float) -> bool:
    """Whether words follow each other, and segments hold theirs: openai's need not."""
    for row in rows:
        for word in row["words"]:
            if not last_s <= word["start"] <= word["end"]:
                return False
            last_s = word["end"]
        if row["words"]:
            held = (
                row["start"] <= row["words"][0]["start"] and row["words"][-1]["end"] <= row["end"]
            )
            if not held or row["start"] != row["words"][0]["start"]:
                return False
            if row["end"] != row["words"][-1]["end"]:
                return False
    return True


@pytest.mark.parametrize("where", [(0.0, 0.0), (30.0, 29.5), (12.34, 3.0)])
def test_times(where: tuple[float, float]) -> None:
    same = 0
    for seed in range(400):
        found, expected = ours(seed, *where), theirs(seed, *where)
        assert [[w.text for w in span.words] for span in found] == [
            [w["word"] for w in row["words"]] for row in expected
        ]
        before = where[1]
        for span in found:
            for word in span.words:
                assert before <= word.start_s <= word.end_s
                assert span.start_s <= word.start_s
                assert word.end_s <= span.end_s
                before = word.end_s
        if is_ordered(expected, where[1]):
            same += 1
            for span, row in zip(found, expected, strict=True):
                times = [(w["start"], w["end"]) for w in row["words"]]
                assert np.allclose([(w.start_s, w.end_s) for w in span.words], times, atol=6e-4)
                assert np.allclose(
                    (span.start_s, span.end_s), (row["start"], row["end"]), atol=6e-4
                )
    assert same > 150


def test_a_long_pause_shortens_the_first_word() -> None:
    """It is taken to begin twice a usual word before its end."""
    words = [Timing(" one", [1], 0.0, 5.0, 1), *(Timing(" two", [2], 5.0, 5.4, 1),) * 3]
    aligner = object.__new__(timing.Aligner)
    aligner._timings = lambda *_: words  # type: ignore[method-assign]
    spans = [Span(0.0, 5.4, [1, 2])]
    aligner.fill(spans, None, 0, None, 3000, 0.0, 0.0)
    assert spans[0].words[0].start_s == pytest.approx(4.2)
    assert spans[0].start_s == pytest.approx(4.2)
