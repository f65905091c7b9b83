"""Measurements for the gate to judge."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from exporter.formats.clips import Clip
from exporter.recipe import Gate
from validate import gate
from validate.measure import ClipResult, Measurement, ShapeCheck

GATE = Gate(max_wer_increase=0.01, max_latency_ratio=1.0, min_clips=50)


PROBES = tuple(ShapeCheck(lengths_s=(1.0,) * size, finite=True, likeness=1.0) for size in (1, 2, 3))


SENTENCE = "turn on the light in the big room please now"


def measurement(texts: list[str], seconds: float = 0.1, probes: tuple[ShapeCheck, ...] = PROBES):
    random = np.random.default_rng(0)
    heard = tuple(
        ClipResult(text=text, tokens=12, seconds=seconds * random.uniform(0.9, 1.1))
        for text in texts
    )
    return Measurement(
        heard=heard, probes=probes, load_s=1.0, peak_rss_bytes=10**9, passes=1, threads=2,
        load_average=0.1, versions={},
        machine={"cpu": "x", "isa": "x", "cores": 2, "memory_bytes": 1},
    )  # fmt: skip


def case(
    *,
    clips: int = 100,
    hear: Callable[[int], str] = lambda _: SENTENCE,
    seconds: float = 0.05,
    probes: tuple[ShapeCheck, ...] = PROBES,
) -> gate.Comparison:
    """A reference that is always right against a candidate that hears `hear(clip)`."""
    truth = [SENTENCE] * clips
    listed = [
        Clip(f"{index}.wav", Path(f"{index}.wav"), SENTENCE, "en", 3.0 + index)
        for index in range(clips)
    ]
    ours = measurement(truth)
    theirs = measurement([hear(index) for index in range(clips)], seconds, probes)
    return gate.Comparison(
        listed,
        truth,
        gate.side(ours, truth, str.strip, 100),
        gate.side(theirs, truth, str.strip, 30),
    )
