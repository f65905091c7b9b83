"""The timed pass: latency, memory and load time on a sample of the clips, run alone.

Each model runs in a fresh process, so that load time and peak memory are its own, and a crash loses
one measurement only. If the candidate seems too slow, both models are timed again in one process,
interleaved, so that other load on a shared machine affects both alike.
"""

import logging
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from exporter.artifact.report import DeviceStamp
from exporter.errors import ResourceError
from exporter.system import hardware, worker
from exporter.system.accelerators import Device, cuda_driver
from exporter.system.progress import Progress
from exporter.validate.corpus.index import Corpus
from exporter.validate.evidence.results import Expected, Findings
from exporter.validate.measure.model import Frozen, ModelSpec, OpenModel
from exporter.validate.measure.shapes import ShapeCheck, check_shapes
from exporter.validate.measure.transcripts import Part, batches, transcribe_part

_log = logging.getLogger(__name__)
MAX_PASSES = 5
_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "optimum", "numpy")


Seconds = list[float]


class Request(Frozen):
    """A measurement to make.

    Attributes:
        spec: The model.
        clips: The files to time, in order.
        languages: The language that the data name for each; empty: none.
        shapes: A short, a median and a long clip: used singly for the warm-up, then in batches
            of unusual shapes.
        shapes_language: The language that the data name for all three, if it is one.
        repeat_s: Seconds available for repeated passes over the clips.
        parts: Clips to transcribe afterwards in the same process, which avoids further loads.
        expected: What the original computes, to compare an artifact with step by step.
    """

    spec: ModelSpec
    clips: tuple[Path, ...]
    languages: tuple[str | None, ...] = ()
    shapes: tuple[Path, ...]
    shapes_language: str | None = None
    repeat_s: float = 10.0
    parts: tuple[Part, ...] = ()
    expected: Expected | None = None


class Measurement(Frozen):
    """Everything that one process measured.

    Attributes:
        seconds: Time from samples to text for each clip of the request, median over passes.
        shapes: One check a batch.
        load_s: Seconds to open the model, without imports.
        first_s: Seconds of the first call on a card, which may allocate, compile or capture.
        peak_rss_bytes: Peak resident memory after the timed passes.
        device_memory_bytes: The card's memory that the model takes after the timed passes.
        device: The card; None on a CPU.
        passes: Number of times each clip was timed.
        threads: Threads of the numerical libraries.
        load_average: The machine's one-minute load average before the measurement.
        machine: The result of `hardware.describe`.
        versions: Versions of Python and of the packages that run models.
        findings: The comparison with what the request expects.
        window_s: Seconds of the model's window; 0 if it is not known.
        vocabulary: Tokens of text that the model has; 0 if it is not known.
    """

    seconds: tuple[float, ...]
    shapes: tuple[ShapeCheck, ...]
    load_s: float
    first_s: float | None = None
    peak_rss_bytes: int
    device_memory_bytes: int | None = None
    device: DeviceStamp | None = None
    passes: int
    threads: int
    load_average: float
    machine: dict[str, Any]
    versions: dict[str, str]
    findings: Findings | None = None
    window_s: float = 0.0
    vocabulary: int = 0


UNMEASURED = Measurement(
    seconds=(),
    shapes=(),
    load_s=0.0,
    peak_rss_bytes=0,
    passes=0,
    threads=0,
    load_average=0.0,
    machine={},
    versions={},
)
"""The measurement of a model that is only heard."""


def request_of(spec: ModelSpec, corpus: Corpus, timed: Sequence[int]) -> Request:
    """Return the measurement to make of a model, alone or interleaved with another one.

    Args:
        spec: The model.
        corpus: The clips.
        timed: The indices of those to time.
    """
    clips = [corpus[place] for place in timed]
    typical = [corpus[place] for place in corpus.typical()]
    (shared, *others) = {clip.language for clip in typical}
    return Request(
        spec=spec,
        clips=tuple(clip.path for clip in clips),
        languages=tuple(clip.language for clip in clips),
        shapes=tuple(clip.path for clip in typical),
        shapes_language=None if others else shared,
    )


def measure_fresh(
    request: Request,
    what: str,
    progress: Progress,
    on_part: Callable[[int], None] = lambda _place: None,
) -> Measurement:
    """Measure in a process of its own.

    Args:
        request: The measurement to make.
        what: The model's name in messages.
        progress: Called with the current activity.
        on_part: Called with the place of each part of the request as soon as it is transcribed.

    Raises:
        ExporterError: As `worker.run` raises it.
    """
    measured: list[Measurement] = []

    def prefixed(doing: str, done: float | None) -> None:
        progress(f"{what}: {doing}", done)

    def on_result(result: dict[str, Any]) -> None:
        if "part" in result:
            on_part(result["part"])
        else:
            measured.append(Measurement.model_validate(result["measurement"]))

    step, threads = f"{__name__}:measure", request.spec.threads
    plain = request.model_dump(mode="json")
    worker.run(step, plain, prefixed, what=what, threads=threads, on_result=on_result)
    return measured[0]


def time_interleaved(requests: Sequence[Request], what: str, progress: Progress) -> list[Seconds]:
    """Time several models in one process, on the same clips with the same threads.

    Returns:
        Each model's seconds for each clip.
    """

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
    """Return both measurements, with interleaved times if the candidate seems too slow.

    If both models do not fit in memory, the separate times are kept.
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


def measure(step_request: dict[str, Any], progress: Progress) -> Iterator[dict[str, Any]]:
    """Load, warm up, time the clips and try unusual batches; then transcribe the parts.

    Yields:
        The measurement, and the place of each part when it is transcribed.
    """
    request = Request.model_validate(step_request)
    load_average = os.getloadavg()[0]
    model = OpenModel(request.spec, progress)
    alone, first_s = _warm_up(model, request)
    (seconds,), passes = _time_clips(request, [model], progress)
    peak_rss_bytes = hardware.peak_rss_bytes()  # before the checks: their batches need more
    device_memory_bytes = model.device_memory_bytes()
    progress("trying other batches and lengths", None)
    shapes = check_shapes(model, request.shapes, alone, request.shapes_language)
    findings = None
    if request.expected is not None:
        from exporter.validate.evidence.examine import examine  # late, since it imports torch

        findings = examine(model, request.expected, progress)
    measurement = Measurement(
        seconds=tuple(seconds),
        shapes=shapes,
        load_s=model.load_s,
        first_s=first_s if request.spec.device != "cpu" else None,
        peak_rss_bytes=peak_rss_bytes,
        device_memory_bytes=device_memory_bytes,
        device=_stamp(request.spec.device),
        passes=passes,
        threads=request.spec.threads,
        load_average=load_average,
        machine=hardware.describe().as_dict(),
        versions={"python": sys.version.split()[0], **hardware.versions_of(_PACKAGES)},
        findings=findings,
        window_s=model.window / model.rate,
        vocabulary=model.recogniser.opened.vocabulary,
    )
    yield {"measurement": measurement.model_dump(mode="json")}
    for place, part in enumerate(request.parts):
        transcribe_part(model, part, progress)
        yield {"part": place}


def time_interleaved_models(step_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load and warm up several models, then let each transcribe a batch before the next batch."""
    requests = [Request.model_validate(request) for request in step_request["requests"]]
    models = [OpenModel(request.spec, progress) for request in requests]
    for model, request in zip(models, requests, strict=True):
        _warm_up(model, request)
    return {"seconds": _time_clips(requests[0], models, progress)[0]}


def _stamp(device: Device) -> DeviceStamp | None:
    """Return what a report names of the card that the model runs on."""
    if device == "cpu":
        return None
    driver = cuda_driver()
    assert driver is not None, "the model was opened on a card"
    card = driver.cards[0]
    capability, cuda = (".".join(map(str, pair)) for pair in (card.capability, driver.cuda))
    return DeviceStamp(
        kind=device,
        name=card.name,
        capability=capability,
        cuda=cuda,
        memory_bytes=card.memory_bytes,
    )


def _warm_up(model: OpenModel, request: Request) -> tuple[list[str], float]:
    """Transcribe the clips of `shapes` one at a time.

    Returns:
        Their texts, and the seconds of the first call.
    """
    language = request.shapes_language
    found = [model.transcribe([path], [language]) for path in request.shapes]
    return [transcripts[0].text for transcripts, _ in found], found[0][1]


def _time_clips(
    request: Request, models: Sequence[OpenModel], progress: Progress
) -> tuple[list[Seconds], int]:
    """Time one pass over the clips, and further passes as `repeat_s` allows.

    Returns:
        Each model's median seconds for each clip, and the number of passes.
    """
    named = request.languages or (None,) * len(request.clips)
    pairs = zip(request.clips, named, strict=True)
    cut = list(batches(pairs, request.spec.decoding.batch_size))
    seconds: list[list[list[float]]] = [[[] for _ in cut] for _ in models]
    order = list(range(len(models)))
    passes, done = 1, 0
    while done < passes:
        timed = 0
        for index, batch in enumerate(cut):
            clip = f"timing clip {timed + 1} of {len(request.clips)} ({batch[0][0].name})"
            paths, languages = zip(*batch, strict=True)
            progress(clip, (done + index / len(cut)) / passes)
            for one in order:
                seconds[one][index].append(models[one].transcribe(paths, languages)[1])
            order.reverse()  # no model always runs after the same one
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
