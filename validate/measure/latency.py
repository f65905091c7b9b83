"""The second pass: latency, memory and loading, on a sample of the clips, with nothing beside it.

One model in one fresh process, so that load time and peak memory are its own, and so that a crash
costs one measurement and not the whole run. Two, where their times leave doubt: what slows a
machine for seconds, as neighbours do on a shared one, then meets both alike.
"""

import logging
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exporter.errors import ResourceError
from exporter.system import hardware, worker
from exporter.system.progress import Progress
from validate.measure.model import Frozen, ModelSpec, OpenModel
from validate.measure.shapes import ShapeCheck, check_shapes
from validate.measure.transcripts import Part, batches, transcribe_part

_log = logging.getLogger(__name__)
MAX_PASSES = 5
_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "optimum", "numpy")


Seconds = list[float]


class Request(Frozen):
    """What to measure.

    Attributes:
        spec: The model.
        clips: The files to time, in order.
        shapes: A short, a middling and a long one: they warm the model up, each alone, and then
            make batches of unusual shapes.
        repeat_s: Clips are timed again while that takes no longer than so.
        part: What to transcribe afterwards, in the same process: a model need not be opened twice.
    """

    spec: ModelSpec
    clips: tuple[Path, ...]
    shapes: tuple[Path, ...]
    repeat_s: float = 10.0
    part: Part | None = None


class Measurement(Frozen):
    """Everything that one process measured.

    Attributes:
        seconds: From samples in to text out, for each clip of the request the median over passes.
        shapes: One check a batch.
        load_s: What opening the model took, imports left out.
        peak_rss_bytes: When all clips had been timed.
        passes: How often each clip was timed.
        threads: Of the numerical libraries.
        load_average: The machine's over the last minute, just before.
        machine: As `hardware.describe` tells it.
        versions: Of Python and the packages that run models.
    """

    seconds: tuple[float, ...]
    shapes: tuple[ShapeCheck, ...]
    load_s: float
    peak_rss_bytes: int
    passes: int
    threads: int
    load_average: float
    machine: dict[str, Any]
    versions: dict[str, str]


def measure_fresh(request: Request, what: str, progress: Progress) -> Measurement:
    """Measure in a process of its own; raises what `worker.run` raises."""

    def prefixed(doing: str, done: float | None) -> None:
        progress(f"{what}: {doing}", done)

    step, threads = f"{__name__}:measure", request.spec.threads
    plain = request.model_dump(mode="json")
    answer = worker.run(step, plain, prefixed, what=what, threads=threads)
    return Measurement.model_validate(answer["measurement"])


def time_interleaved(requests: Sequence[Request], what: str, progress: Progress) -> list[Seconds]:
    """Each model's seconds for each clip, in a process that holds all; same threads, same clips."""

    def prefixed(doing: str, done: float | None) -> None:
        progress(f"{what} and the original by turns: {doing}", done)

    plain = {"requests": [request.model_dump(mode="json") for request in requests]}
    step, threads = f"{__name__}:time_interleaved_models", requests[0].spec.threads
    answer = worker.run(step, plain, prefixed, what=what, threads=threads)
    seconds: list[Seconds] = answer["seconds"]
    return seconds


def remeasure_if_slow(
    reference: Measurement,
    candidate: Measurement,
    too_slow: Callable[[Measurement, Measurement], bool],
    in_turns: Callable[[], Sequence[Seconds]],
) -> tuple[Measurement, Measurement]:
    """Both sides; where the candidate seems too slow, with the seconds that both take in turns.

    Where there is no memory for both, the seconds of each alone count.
    """
    if not too_slow(reference, candidate):
        return reference, candidate
    try:
        ours, theirs = in_turns()
    except ResourceError as error:
        _log.warning("timed one after the other, not by turns: %s", error)
        return reference, candidate
    return _with(reference, ours), _with(candidate, theirs)


def _with(measurement: Measurement, seconds: Seconds) -> Measurement:
    return measurement.model_copy(update={"seconds": tuple(seconds)})


def measure(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load, warm up, time the clips, try unusual batches; then transcribe a part, if asked."""
    request = Request.model_validate(asked)
    load_average = os.getloadavg()[0]
    model = OpenModel(request.spec, progress)
    alone = _warm_up(model, request.shapes)
    (seconds,), passes = _time_clips(request, [model], progress)
    peak_rss_bytes = hardware.peak_rss_bytes()  # before the checks: their batches need more
    progress("trying other batches and lengths", None)
    measurement = Measurement(
        seconds=tuple(seconds),
        shapes=check_shapes(model, request.shapes, alone),
        load_s=model.load_s,
        peak_rss_bytes=peak_rss_bytes,
        passes=passes,
        threads=request.spec.threads,
        load_average=load_average,
        machine=hardware.describe().as_dict(),
        versions={"python": sys.version.split()[0], **hardware.versions_of(_PACKAGES)},
    )
    if request.part:
        transcribe_part(model, request.part, progress)
    return {"measurement": measurement.model_dump(mode="json")}


def time_interleaved_models(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load and warm up several models, then let each transcribe a batch before the next batch."""
    requests = [Request.model_validate(request) for request in asked["requests"]]
    models = [OpenModel(request.spec, progress) for request in requests]
    for model, request in zip(models, requests, strict=True):
        _warm_up(model, request.shapes)
    return {"seconds": _time_clips(requests[0], models, progress)[0]}


def _warm_up(model: OpenModel, clips: Sequence[Path]) -> list[str]:
    """Transcribe clips by themselves; give their texts."""
    return [model.transcribe([path])[0][0].text for path in clips]


def _time_clips(
    request: Request, models: Sequence[OpenModel], progress: Progress
) -> tuple[list[Seconds], int]:
    """One pass, and more for steadier times while they are cheap.

    Gives each model's median seconds for each clip, and the number of passes.
    """
    cut = list(batches(iter(request.clips), request.spec.decoding.batch_size))
    seconds: list[list[list[float]]] = [[[] for _ in cut] for _ in models]
    order = list(range(len(models)))
    passes, done = 1, 0
    while done < passes:
        timed = 0
        for index, batch in enumerate(cut):
            clip = f"timing clip {timed + 1} of {len(request.clips)} ({batch[0].name})"
            progress(clip, (done + index / len(cut)) / passes)
            for one in order:
                seconds[one][index].append(models[one].transcribe(batch)[1])
            order.reverse()  # nobody always comes after the same one
            timed += len(batch)
        done += 1
        if done == 1:
            spent = sum(times[0] for each in seconds for times in each) / len(models)
            passes += min(MAX_PASSES - 1, int(request.repeat_s / spent))
    medians = [
        [
            statistics.median(times) / len(batch)
            for times, batch in zip(each, cut, strict=True)
            for _ in batch
        ]
        for each in seconds
    ]
    return medians, passes
