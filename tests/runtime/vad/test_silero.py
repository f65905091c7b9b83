"""The detector gives the probabilities of Silero's ONNX file, however a recording is read.

`make.py` wrote what that file gives; its weights are part of the package.
"""

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from exporter.runtime.vad.silero import FRAME, RATE, detector
from tests.runtime.vad.recordings import GOLDEN, Array, recordings

RECORDINGS = recordings()
EXPECTED: dict[str, Any] = json.loads(GOLDEN.read_text())["recordings"]


@pytest.mark.parametrize("name", RECORDINGS)
def test_probabilities_are_those_of_the_onnx_file(name: str) -> None:
    found = detector()([RECORDINGS[name]])
    expected = np.array(EXPECTED[name]["probabilities"])
    assert found.dtype == np.float32
    assert len(found) == len(RECORDINGS[name]) // FRAME + 1
    assert np.abs(found - expected).max() < 5e-5


def test_they_tell_speech_from_noise_and_silence() -> None:
    heard = {name: detector()([samples]) for name, samples in RECORDINGS.items()}
    assert (heard["long-001"] > 0.5).mean() > 0.6
    for name in ("noise", "silence", "moment"):
        assert heard[name].max() < 0.3


@pytest.mark.parametrize("size", [1_000, FRAME, 65_536])
def test_blocks_make_no_difference(size: int) -> None:
    """Not even to a bit, so that a long file has the spans that its samples have."""
    samples = RECORDINGS["long-001"]
    blocks = [samples[start : start + size] for start in range(0, len(samples), size)]
    assert np.array_equal(detector()(blocks), detector()([samples]))


def test_nothing_is_remembered_of_the_recording_before() -> None:
    first = detector()([RECORDINGS["short-010"]])
    detector()([RECORDINGS["noise"]])
    assert np.array_equal(detector()([RECORDINGS["short-010"]]), first)


def test_an_empty_recording() -> None:
    assert len(detector()([])) == 1
    assert detector()([])[0] < 0.5


def test_memory_does_not_follow_the_length() -> None:
    """Ten minutes in blocks: numpy tells its arrays to tracemalloc."""

    def blocks(minutes: int) -> Iterator[Array]:
        source = np.random.default_rng(0)
        for _ in range(60 * minutes):
            yield source.normal(0, 0.01, RATE).astype(np.float32)

    peaks = []
    for minutes in (1, 10):
        tracemalloc.start()
        detector()(blocks(minutes))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)
