"""Measure a model, or time two in turns, in a fresh process: as `exporter.system.worker` runs it.

One model in one process, so that load time and peak memory are its own, and so that a crash costs
one measurement and not the whole run. Two, where their times leave doubt: what slows a machine for
seconds, as neighbours do on a shared one, then meets both alike.
"""

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from exporter.bench.timing import opened
from exporter.errors import ResourceError
from exporter.families.transcript import Transcript
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.system import hardware, worker
from exporter.system.progress import Progress

_log = logging.getLogger(__name__)
WARM_UPS = 3
MAX_PASSES = 5
_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "optimum", "numpy")


Seconds = list[float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(_Frozen):
    """What to measure. `model` is a sealed artifact, or an original checkpoint's folder.

    `trust` is the user's word for an artifact's code, or for an original's pickle.
    """

    model: Path
    original: bool
    trust: bool = False
    threads: int
    decoding: Decoding
    clips: tuple[Path, ...]
    repeat_s: float = 10.0


class ClipResult(_Frozen):
    """A clip's transcript; `seconds` from samples in to text out, the median over the passes."""

    text: str
    tokens: int
    seconds: float


class ShapeCheck(_Frozen):
    """A batch of a shape unlike the traced one. `finite` is None where no output could be seen.

    `likeness`: of the texts in the batch to those of the same clips alone, 0 to 1, on average.
    """

    lengths_s: tuple[float, ...]
    finite: bool | None = None
    likeness: float | None = None
    error: str | None = None


class Measurement(_Frozen):
    """Everything one process measured, clip by clip in the request's order."""

    heard: tuple[ClipResult, ...]
    probes: tuple[ShapeCheck, ...]
    load_s: float
    peak_rss_bytes: int
    passes: int
    threads: int
    load_average: float
    machine: dict[str, Any]
    versions: dict[str, str]


def measure_fresh(request: Request, what: str, progress: Progress) -> Measurement:
    """Measure in a process of its own; raises what `child.run` raises."""

    def told(doing: str, done: float | None) -> None:
        progress(f"{what}: {doing}", done)

    asked = request.model_dump(mode="json")
    step = f"{__name__}:measure"
    answer = worker.run(step, asked, told, what=what, threads=request.threads)
    return Measurement.model_validate(answer["measurement"])


def time_interleaved(requests: Sequence[Request], what: str, progress: Progress) -> list[Seconds]:
    """Each model's seconds for each clip, in a process that holds all; same threads, same clips."""

    def told(doing: str, done: float | None) -> None:
        progress(f"{what} and the original by turns: {doing}", done)

    asked = {"requests": [request.model_dump(mode="json") for request in requests]}
    step, threads = f"{__name__}:time_interleaved_models", requests[0].threads
    seconds: list[Seconds] = worker.run(step, asked, told, what=what, threads=threads)["seconds"]
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
    pairs = zip(measurement.heard, seconds, strict=True)
    heard = tuple(clip.model_copy(update={"seconds": each}) for clip, each in pairs)
    return measurement.model_copy(update={"heard": heard})


class _Model:
    """An open model that has warmed up: batches of recordings in, texts and seconds out."""

    def __init__(self, request: Request, progress: Progress) -> None:
        progress("loading", None)
        self.recogniser, self.load_s = opened(
            request.model, original=request.original, threads=request.threads, trust=request.trust
        )
        self._decoding = request.decoding
        rate = self.recogniser.family.sampling_rate(self.recogniser.processor)
        self.read = partial(audio.read, rate=rate)
        for path in request.clips[:WARM_UPS]:
            self.hear([path])

    def hear(self, batch: Sequence[Path]) -> tuple[Sequence[Transcript], float]:
        samples = [self.read(path) for path in batch]
        start = time.perf_counter()
        said = self.recogniser.decode(samples, self._decoding)
        return said, time.perf_counter() - start


def measure(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load, warm up, transcribe every clip one or more times, then try unusual batches."""
    request = Request.model_validate(asked)
    load_average = os.getloadavg()[0]
    model = _Model(request, progress)
    (said,), (seconds,), passes = _time_clips(request, [model], progress)
    peak_rss_bytes = hardware.peak_rss_bytes()  # before the probes: their batches need more
    progress("trying other batches and lengths", None)
    probes = _probes(request, model, [clip.text for clip in said])
    pairs = zip(said, seconds, strict=True)
    measurement = Measurement(
        heard=tuple(
            ClipResult(text=t.text, tokens=len(t.tokens), seconds=each) for t, each in pairs
        ),
        probes=probes,
        load_s=model.load_s,
        peak_rss_bytes=peak_rss_bytes,
        passes=passes,
        threads=request.threads,
        load_average=load_average,
        machine=hardware.describe().as_dict(),
        versions={"python": sys.version.split()[0], **hardware.versions_of(_PACKAGES)},
    )
    return {"measurement": measurement.model_dump(mode="json")}


def time_interleaved_models(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load and warm up several models, then let each transcribe a batch before the next batch."""
    requests = [Request.model_validate(request) for request in asked["requests"]]
    models = [_Model(request, progress) for request in requests]
    return {"seconds": _time_clips(requests[0], models, progress)[1]}


def _time_clips(
    request: Request, models: Sequence[_Model], progress: Progress
) -> tuple[list[list[Transcript]], list[Seconds], int]:
    """One pass for the texts, more for steadier times while they are cheap.

    Gives each model's transcripts, its median seconds for each clip, and the number of passes.
    """
    size = request.decoding.batch_size
    batches = [request.clips[at : at + size] for at in range(0, len(request.clips), size)]
    texts: list[list[Transcript]] = [[] for _ in models]
    seconds: list[list[list[float]]] = [[[] for _ in batches] for _ in models]
    order = list(range(len(models)))
    passes, done = 1, 0
    while done < passes:
        for index, batch in enumerate(batches):
            clip = f"clip {index * size + 1} of {len(request.clips)} ({batch[0].name})"
            progress(clip, (done + index / len(batches)) / passes)
            for one in order:
                said, took = models[one].hear(batch)
                seconds[one][index].append(took)
                texts[one] += said if done == 0 else ()
            order.reverse()  # nobody always comes after the same one
        done += 1
        if done == 1:
            spent = sum(times[0] for each in seconds for times in each) / len(models)
            passes += min(MAX_PASSES - 1, int(request.repeat_s / spent))
    medians = [
        [
            statistics.median(times) / len(batch)
            for times, batch in zip(each, batches, strict=True)
            for _ in batch
        ]
        for each in seconds
    ]
    return texts, medians, passes


def _probes(request: Request, model: _Model, alone: Sequence[str]) -> tuple[ShapeCheck, ...]:
    """Batches of one, two and three clips of several lengths, each within the window."""
    recogniser = model.recogniser
    order = sorted(range(len(alone)), key=lambda index: request.clips[index].stat().st_size)
    rate = recogniser.family.sampling_rate(recogniser.processor)
    window = recogniser.family.window(recogniser.processor)
    places = [order[0], order[len(order) // 2], order[-1]]
    sounds = [model.read(request.clips[place]) for place in places]
    texts = [alone[p] if len(s) <= window else None for p, s in zip(places, sounds, strict=True)]
    shortest, middle, longest = (sound[:window] for sound in sounds)
    snippet = middle[: max(rate // 5, len(middle) // 3)]
    batches: list[tuple[list[audio.Samples], list[str | None]]] = [
        ([snippet], [None]),
        ([shortest, longest], [texts[0], texts[2]]),
        ([middle, snippet, shortest], [texts[1], None, texts[0]]),
    ]
    return tuple(
        _probe(recogniser, request.decoding, batch, expected, rate) for batch, expected in batches
    )


def _probe(
    recogniser: Any,
    decoding: Decoding,
    batch: list[audio.Samples],
    expected: Sequence[str | None],
    rate: int,
) -> ShapeCheck:
    lengths = tuple(round(len(samples) / rate, 3) for samples in batch)
    together = decoding.model_copy(update={"batch_size": len(batch)})
    try:
        with _watched(recogniser.model) as finite:
            said = recogniser.decode(batch, together)
        pairs = zip(said, expected, strict=True)
        likeness = [_likeness(t.text, text) for t, text in pairs if text is not None]
    except MemoryError:
        raise
    except Exception as error:  # whatever a runtime throws is what the probe looks for
        lines = str(error).splitlines() or [""]
        return ShapeCheck(lengths_s=lengths, error=f"{type(error).__name__}: {lines[0][:200]}")
    return ShapeCheck(
        lengths_s=lengths,
        finite=all(finite) if finite else None,
        likeness=statistics.fmean(likeness) if likeness else None,
    )


def _likeness(text: str, other: str) -> float:
    return SequenceMatcher(None, text, other, autojunk=False).ratio()


@contextmanager
def _watched(model: Any) -> Iterator[list[bool]]:
    """Note for every step of the model whether its logits are finite.

    Only during probes: looking costs time. Works for torch modules, as every family's model is.
    """
    seen: list[bool] = []

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None:
            seen.append(bool(np.isfinite(logits.detach().float().numpy()).all()))

    if not hasattr(model, "register_forward_hook"):
        yield seen
        return
    handle = model.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
