"""Measurements and transcripts for the gate to judge."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.formats.clips import Clip
from exporter.recipe import Gate
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.shapes import ShapeCheck
from exporter.validate.measure.transcripts import ClipResult
from exporter.validate.scoring.compare import Comparison, ModelOutput, compare

GATE = Gate(max_wer_increase=0.01, max_latency_ratio=1.0, min_clips=50)


SHAPES = tuple(ShapeCheck(lengths_s=(1.0,) * size, finite=True, likeness=1.0) for size in (1, 2, 3))


SENTENCE = "turn on the light in the big room please now"


def measurement(
    clips: int, median: float = 0.1, shapes: tuple[ShapeCheck, ...] = SHAPES, **changes: Any
) -> Measurement:
    random = np.random.default_rng(0)
    values = {
        "seconds": tuple(median * random.uniform(0.9, 1.1) for _ in range(clips)),
        "shapes": shapes, "load_s": 1.0, "peak_rss_bytes": 10**9, "passes": 1, "threads": 2,
        "load_average": 0.1, "versions": {},
        "machine": {"cpu": "x", "isa": "x", "cores": 2, "memory_bytes": 1},
    }  # fmt: skip
    return Measurement.model_validate({**values, **changes})


def output(texts: Sequence[str], measured: Measurement, size_bytes: int = 1) -> ModelOutput:
    """What a model gave that hears `texts`."""
    return ModelOutput(measured, [ClipResult(text=text, tokens=12) for text in texts], size_bytes)


def comparison(
    clips: Sequence[Clip],
    reference: ModelOutput,
    candidate: ModelOutput,
    timed: Sequence[int] | None = None,
) -> Comparison:
    """Both sides scored, with the rows of their predictions in memory."""
    rows: list[Any] = []
    places = range(len(clips)) if timed is None else timed
    how: dict[str, Any] = {"rows": rows, "write": rows.append}
    return compare(clips, places, reference, candidate, str.strip, **how)


def listed(clips: int, speakers: int = 0) -> list[Clip]:
    """So many clips; of speakers who take turns, if there are any."""
    names = [f"speaker {index % speakers}" if speakers else None for index in range(clips)]
    return [
        Clip(f"{index}.wav", Path(f"{index}.wav"), SENTENCE, "en", 3.0 + index, speaker=name)
        for index, name in enumerate(names)
    ]


def case(
    *,
    clips: int = 100,
    hear: Callable[[int], str] = lambda _: SENTENCE,
    right: str = SENTENCE,
    seconds: float = 0.05,
    shapes: tuple[ShapeCheck, ...] = SHAPES,
    timed: Sequence[int] | None = None,
    speakers: int = 0,
    **changes: Any,
) -> Comparison:
    """A reference that always hears `right` against a candidate that hears `hear(clip)`.

    `changes` are those of the candidate's measurement.
    """
    count = clips if timed is None else len(timed)
    ours = output([right] * clips, measurement(count), 100)
    texts = [hear(index) for index in range(clips)]
    theirs = output(texts, measurement(count, seconds, shapes, **changes), 30)
    return comparison(listed(clips, speakers), ours, theirs, timed)
