"""Measure one model in one fresh process: what `exporter.child` runs for the validator.

Separate from the parent so that load time and peak memory are this model's alone, and so that a
crash costs one measurement and not the whole run.
"""

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

from exporter import audio, child, machine
from exporter.progress import Progress
from exporter.recipe import Decoding
from exporter.stopwatch import opened

WARM_UPS = 3
MAX_PASSES = 5
_MORE_TRIES = 2
_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "optimum", "numpy")


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


class Heard(_Frozen):
    """A clip's transcript; `seconds` from samples in to text out, the median over the passes."""

    text: str
    tokens: int
    seconds: float


class Probe(_Frozen):
    """A batch of a shape unlike the traced one. `finite` is None where no output could be seen.

    `likeness`: of the texts in the batch to those of the same clips alone, 0 to 1, on average.
    """

    lengths_s: tuple[float, ...]
    finite: bool | None = None
    likeness: float | None = None
    error: str | None = None


class Measurement(_Frozen):
    """Everything one process measured, clip by clip in the request's order."""

    heard: tuple[Heard, ...]
    probes: tuple[Probe, ...]
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
    answer = child.run(step, asked, told, what=what, threads=request.threads)
    return Measurement.model_validate(answer["measurement"])


def steady(
    reference: Measurement,
    candidate: Measurement,
    too_slow: Callable[[Measurement, Measurement], bool],
    again: Callable[[], tuple[Measurement, Measurement]],
) -> tuple[Measurement, Measurement]:
    """Both sides, measured again while the candidate seems too slow: it counts if it stays so.

    Other programs only ever make a model slower, and not for long: the least times of all tries
    are its own.
    """
    for _ in range(_MORE_TRIES):
        if not too_slow(reference, candidate):
            break
        ours, theirs = again()
        reference, candidate = _calmer(reference, ours), _calmer(candidate, theirs)
    return reference, candidate


def _calmer(one: Measurement, other: Measurement) -> Measurement:
    """The first measurement with the lesser time of each clip."""
    heard = tuple(
        first.model_copy(update={"seconds": min(first.seconds, second.seconds)})
        for first, second in zip(one.heard, other.heard, strict=True)
    )
    load_average = max(one.load_average, other.load_average)
    return one.model_copy(update={"heard": heard, "load_average": load_average})


def measure(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load, warm up, transcribe every clip one or more times, then try unusual batches."""
    request = Request.model_validate(asked)
    progress("loading", None)
    load_average = os.getloadavg()[0]
    recogniser, load_s = opened(
        request.model, original=request.original, threads=request.threads, trust=request.trust
    )
    rate = recogniser.family.sampling_rate(recogniser.processor)
    read = partial(audio.read, rate=rate)
    transcribe = partial(recogniser.transcribe, decoding=request.decoding)
    for path in request.clips[:WARM_UPS]:
        transcribe([read(path)])
    heard, passes = _time_clips(request, read, transcribe, progress)
    peak_rss_bytes = machine.peak_rss_bytes()  # before the probes: their batches need more
    progress("trying other batches and lengths", None)
    probes = _probes(request, read, recogniser, [clip.text for clip in heard])
    measurement = Measurement(
        heard=heard,
        probes=probes,
        load_s=load_s,
        peak_rss_bytes=peak_rss_bytes,
        passes=passes,
        threads=request.threads,
        load_average=load_average,
        machine=machine.describe().as_dict(),
        versions={"python": sys.version.split()[0], **machine.versions_of(_PACKAGES)},
    )
    return {"measurement": measurement.model_dump(mode="json")}


def _time_clips(
    request: Request,
    read: Callable[[Path], audio.Samples],
    transcribe: Callable[..., Any],
    progress: Progress,
) -> tuple[tuple[Heard, ...], int]:
    """One pass for the text, more for steadier times while they are cheap."""
    size = request.decoding.batch_size
    batches = [request.clips[at : at + size] for at in range(0, len(request.clips), size)]
    said: list[Any] = []
    seconds: list[list[float]] = [[] for _ in batches]
    passes = 1
    done = 0
    while done < passes:
        for index, batch in enumerate(batches):
            clip = f"clip {index * size + 1} of {len(request.clips)} ({batch[0].name})"
            progress(clip, (done + index / len(batches)) / passes)
            samples = [read(path) for path in batch]
            start = time.perf_counter()
            transcripts = transcribe(samples)
            seconds[index].append(time.perf_counter() - start)
            if done == 0:
                said += transcripts
        done += 1
        if done == 1:
            spent = sum(times[0] for times in seconds)
            passes += min(MAX_PASSES - 1, int(request.repeat_s / spent))
    medians = [
        statistics.median(times) / len(batch)
        for times, batch in zip(seconds, batches, strict=True)
        for _ in batch
    ]
    pairs = zip(said, medians, strict=True)
    heard = (Heard(text=t.text, tokens=len(t.tokens), seconds=each) for t, each in pairs)
    return tuple(heard), passes


def _probes(
    request: Request, read: Callable[[Path], audio.Samples], recogniser: Any, alone: Sequence[str]
) -> tuple[Probe, ...]:
    """Batches of one, two and three clips of several lengths, each within the window."""
    order = sorted(range(len(alone)), key=lambda index: request.clips[index].stat().st_size)
    rate = recogniser.family.sampling_rate(recogniser.processor)
    window = recogniser.family.window(recogniser.processor)
    places = [order[0], order[len(order) // 2], order[-1]]
    sounds = [read(request.clips[place]) for place in places]
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
) -> Probe:
    lengths = tuple(round(len(samples) / rate, 3) for samples in batch)
    together = decoding.model_copy(update={"batch_size": len(batch)})
    try:
        with _watched(recogniser.model) as finite:
            said = recogniser.transcribe(batch, decoding=together)
        pairs = zip(said, expected, strict=True)
        likeness = [_likeness(t.text, text) for t, text in pairs if text is not None]
    except MemoryError:
        raise
    except Exception as error:  # whatever a runtime throws is what the probe looks for
        lines = str(error).splitlines() or [""]
        return Probe(lengths_s=lengths, error=f"{type(error).__name__}: {lines[0][:200]}")
    return Probe(
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
