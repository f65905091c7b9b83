"""Words in lines and cues, against openai-whisper's writer of subtitles."""

import itertools
from typing import Any

import numpy as np
import pytest

from exporter.runtime.cues import PLAIN, Layout, cues
from exporter.runtime.subtitles import lines_of
from exporter.runtime.transcript import Segment, Transcript, Word
from tests.support.openai_timing import iterate_result


def transcript(seed: int = 0) -> Transcript:
    """Words of all lengths, with pauses, in a few segments, one of them without a word."""
    random = np.random.default_rng(seed)
    at, segments = 0.0, []
    for number in range(4):
        at += float(random.choice([0.0, 1.0, 4.0]))
        words = []
        for _ in range(0 if number == 2 else int(random.integers(1, 12))):
            lasts = float(random.choice([0.0, 0.2, 0.5, 3.5]))
            words.append(Word(at, at + lasts, " " + "x" * int(random.integers(1, 9)), 0.5))
            at += lasts + float(random.choice([0.0, 0.3]))
        text = "".join(word.text for word in words).strip()
        start_s = words[0].start_s if words else at
        segments.append(Segment(start_s, at, text, words=tuple(words)))
    return Transcript("", (), tuple(segments))


LAYOUTS = [
    {"max_line_width": width, "max_line_count": count, "max_words_per_line": words, **marked}
    for width, count, words, marked in itertools.product(
        (None, 5, 18, 42), (None, 1, 2), (None, 1, 3), ({}, {"highlight_words": True})
    )
][1:]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_cues(layout: dict[str, Any]) -> None:
    for seed in range(6):
        made = transcript(seed)
        found = [(c.start_s, c.end_s, c.text) for c in cues(made, Layout(**layout), str)]
        rows = [
            {
                "start": one.start_s,
                "end": one.end_s,
                "text": one.text,
                "words": [
                    {"word": w.text, "start": w.start_s, "end": w.end_s} for w in one.words or ()
                ],
            }
            for one in made.segments
        ]
        assert found == list(iterate_result({"segments": rows}, **layout))


def test_without_a_layout_a_segment_is_a_cue() -> None:
    made = transcript()
    assert [cue.text for cue in cues(made, PLAIN, str)] == [one.text for one in made.segments]
    assert lines_of(made, "srt", "") == lines_of(made, "srt", "", Layout())


def test_lines_in_both_formats() -> None:
    words = (Word(0, 1, " a<b", 1), Word(1, 2, " c", 1), Word(2.5, 3, " d", 1))
    made = Transcript("", (), (Segment(0, 3, "a<b c d", words=words),))
    narrow = Layout(max_line_width=6)
    assert lines_of(made, "srt", "", narrow) == [
        *("1", "00:00:00,000 --> 00:00:03,000", "a<b c", "d", ""),
    ]
    marked = Layout(highlight_words=True)
    assert lines_of(made, "vtt", "", marked) == [
        *("WEBVTT", ""),
        *("00:00:00.000 --> 00:00:01.000", "<u>a&lt;b</u> c d", ""),
        *("00:00:01.000 --> 00:00:02.000", "a&lt;b <u>c</u> d", ""),
        *("00:00:02.000 --> 00:00:02.500", "a&lt;b c d", ""),
        *("00:00:02.500 --> 00:00:03.000", "a&lt;b c <u>d</u>", ""),
    ]


def test_nothing_was_said() -> None:
    silent = Transcript("", (), (Segment(0, 1, "", words=()),))
    assert list(cues(silent, Layout(max_line_width=9), str)) == []


def test_segments_survive_plain_data() -> None:
    for one in transcript().segments:
        assert Segment.of_dict(one.to_dict()) == one
    assert "words" not in Segment(0, 1, "a").to_dict()
    assert Segment.of_dict(Segment(0, 1, "a").to_dict()) == Segment(0, 1, "a")
    cut = transcript().segments[0].until(0.1)
    assert cut.words is not None
    assert max(word.end_s for word in cut.words) <= 0.1
