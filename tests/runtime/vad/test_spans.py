"""Spans of speech are faster-whisper's, and so are chunks and times; `make.py` wrote the spans."""

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from exporter.errors import RecipeError
from exporter.runtime.vad.spans import (
    SpeechRules,
    Timeline,
    find_speech,
    merged,
    speech_spans,
)
from tests.runtime.vad.recordings import GOLDEN, OPTIONS, WALKS, recordings, walk

RECORDINGS = recordings()
EXPECTED: dict[str, Any] = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", RECORDINGS)
def test_spans_of_recordings(name: str) -> None:
    for options, expected in zip(OPTIONS, EXPECTED["recordings"][name]["spans"], strict=True):
        found = find_speech(RECORDINGS[name], 16_000, SpeechRules(**options))
        assert found == [tuple(span) for span in expected], options


def test_spans_of_any_probabilities() -> None:
    several = 0
    for number in range(WALKS):
        probabilities, samples = walk(number)
        for options, expected in zip(OPTIONS, EXPECTED["walks"][number], strict=True):
            found = speech_spans(probabilities.tolist(), samples, SpeechRules(**options))
            assert found == [tuple(span) for span in expected], (number, options)
            several += len(found) > 2
    assert several > 20


def test_spans_are_in_order_and_within_the_recording() -> None:
    for number in range(WALKS, 3 * WALKS):
        probabilities, samples = walk(number)
        rules = SpeechRules(max_speech_s=3, min_silence_s=0.1, speech_pad_s=0.4)
        found = speech_spans(probabilities.tolist(), samples, rules)
        assert all(0 <= start < stop <= samples for start, stop in found)
        assert all(before[1] <= after[0] for before, after in pairwise(found))
        assert all(stop - start <= 3 * 16_000 for start, stop in found)


def test_other_rates_are_refused() -> None:
    with pytest.raises(RecipeError, match="vad hears 16,000 samples a second, and this model 8,0"):
        find_speech(np.zeros(8_000, np.float32), 8_000, SpeechRules())


def test_spans_are_merged_up_to_a_window() -> None:
    spans = [(0, 40), (50, 80), (100, 130), (140, 240), (250, 251)]
    assert merged(spans, 100) == [[(0, 40), (50, 80), (100, 130)], [(140, 240)], [(250, 251)]]
    assert merged(spans, 101) == [[(0, 40), (50, 80), (100, 130)], [(140, 240), (250, 251)]]
    assert merged([], 100) == []


def test_times_are_restored() -> None:
    """As `SpeechTimestampsMap` of faster-whisper restores them."""
    rate = 16_000
    spans = [(1 * rate, 3 * rate), (10 * rate, 11 * rate), (20 * rate, 24 * rate)]
    times = Timeline(spans, rate)
    assert [times.start_s(at) for at in (0.0, 1.5, 2.0, 2.5, 3.0, 6.5)] == [
        1,
        2.5,
        10,
        10.5,
        20,
        23.5,
    ]
    assert [times.end_s(at) for at in (1.5, 2.0, 2.5, 3.0, 3.02, 7.0)] == [
        2.5,
        3,
        10.5,
        11,
        20.02,
        24,
    ]
    assert times.end_s(8.0) == 24, "a window is padded beyond the speech"
    assert math.isclose(times.start_s(2.0), times.end_s(2.0) + 7)
