"""An artifact measured beside its original: its steps, its times, and both by turns if it is slow.

It needs no more than paths and plain data, so that another machine can do it.
"""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exporter.system import worker
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch
from exporter.validate.evidence.results import Expected, ReferenceRequest
from exporter.validate.gate.latency import Times, too_slow
from exporter.validate.measure import latency
from exporter.validate.measure.latency import (
    Measurement,
    measure_fresh,
    remeasure_if_slow,
    time_interleaved,
)
from exporter.validate.measure.model import Frozen

_REFERENCE = "exporter.validate.evidence.reference:write"  # by name, since it imports torch


class PairRequest(Frozen):
    """Both measurements to make.

    Attributes:
        name: The artifact, for messages.
        original: The measurement of the original.
        artifact: That of the artifact, on the same clips.
        steps: What the original computes first, to compare the artifact's steps with; None: they
            are not compared.
        durations_s: Seconds of the timed clips.
        max_latency_ratio: What the gate allows.
    """

    name: str
    original: latency.Request
    artifact: latency.Request
    steps: ReferenceRequest | None
    durations_s: tuple[float, ...]
    max_latency_ratio: float

    def with_paths(self, places: Mapping[Path, Path]) -> "PairRequest":
        """Return the request with other files for its clips."""

        def moved(paths: tuple[Path, ...]) -> tuple[Path, ...]:
            return tuple(places.get(path, path) for path in paths)

        def timed(request: latency.Request) -> latency.Request:
            other = {"clips": moved(request.clips), "shapes": moved(request.shapes)}
            return request.model_copy(update=other)

        steps = self.steps and self.steps.model_copy(update={"clips": moved(self.steps.clips)})
        both = {"original": timed(self.original), "artifact": timed(self.artifact)}
        return self.model_copy(update={**both, "steps": steps})


class MeasuredPair(Frozen):
    """Both measurements, and what the original said of the artifact's weights and ranges.

    `expected` is None where steps were not compared; its files are gone.
    """

    reference: Measurement
    candidate: Measurement
    expected: Expected | None


def measure_pair(
    request: PairRequest,
    reference: Measurement,
    measure: Callable[[Expected | None], Measurement],
    output: Path,
    progress: Progress,
) -> MeasuredPair:
    """Measure an artifact after its original; if it seems too slow, time them by turns.

    Args:
        request: Both measurements.
        reference: That of the original.
        measure: Measures the artifact.
        output: A new folder, for what the original computes.
        progress: Called with the current activity.

    Raises:
        ExporterError: As `worker.run` raises it.
    """
    expected = _expected(request, output, progress)
    candidate = measure(expected)
    if expected is not None:  # its arrays are as large as a small model
        shutil.rmtree(output)
    durations_s = np.array(request.durations_s)

    def slow(*sides: Measurement) -> bool:
        times = Times(durations_s, *(np.array(one.seconds) for one in sides))
        return too_slow(times, request.max_latency_ratio)

    both = [request.original, request.artifact]
    in_turns = partial(time_interleaved, both, request.name, progress)
    measured = remeasure_if_slow(reference, candidate, slow, in_turns)
    return MeasuredPair(reference=measured[0], candidate=measured[1], expected=expected)


def measure(step_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure both models in processes of their own: a step for `exporter.system.worker`."""
    request = PairRequest.model_validate(step_request)
    with scratch() as place:
        reference = measure_fresh(request.original, f"original of {request.name}", progress)

        def candidate(expected: Expected | None) -> Measurement:
            asked = request.artifact.model_copy(update={"expected": expected})
            return measure_fresh(asked, request.name, progress)

        found = measure_pair(request, reference, candidate, place / "expected", progress)
    return {"pair": found.model_dump(mode="json")}


def _expected(request: PairRequest, output: Path, progress: Progress) -> Expected | None:
    """Let the original decode given texts, as it is and with the artifact's plan."""
    if request.steps is None:
        return None
    output.mkdir()

    def prefixed(doing: str, done: float | None) -> None:
        progress(f"original of {request.name}: {doing}", done)

    asked = request.steps.model_copy(update={"output": output})
    step, plain = _REFERENCE, asked.model_dump(mode="json")
    how: dict[str, Any] = {"what": request.name, "threads": asked.original.threads}
    answer = worker.run(step, plain, prefixed, **how)
    return Expected.model_validate(answer["expected"])
