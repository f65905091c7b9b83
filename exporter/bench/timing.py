"""Time one model in one fresh process: what `exporter.system.worker` runs for `bench`.

Separate from the parent so that load time and peak memory are those of this model only. The graphs
are timed in a pass after the timed runs, because these clocks cost time themselves.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from exporter.artifact import store
from exporter.families import FAMILIES, family_name
from exporter.formats import audio
from exporter.formats.config_json import read_json
from exporter.recipe import Decoding
from exporter.recognition import light, load
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.transcript import Audio
from exporter.system import hardware
from exporter.system.progress import Progress
from exporter.targets import TARGETS

_WARM_UPS = 2
_SEED = 0
_LOUDNESS = 0.01  # of full scale: quiet noise


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(_Frozen):
    """The model to time, and its work.

    Attributes:
        model: An artifact, or an original checkpoint's folder.
        original: True for a checkpoint.
        trust: Accept an artifact's code of unknown origin, or a checkpoint's pickle.
        threads: Number of threads.
        decoding: Options of the decoding.
        audio: Recordings. Without any, a batch of windows of noise is decoded.
        tokens: Number of tokens for each window of noise, where the family can force it.
        runs: Timed passes over the audio.
    """

    model: Path
    original: bool
    trust: bool = False
    threads: int
    decoding: Decoding
    audio: tuple[Path, ...] = ()
    tokens: int = 64
    runs: int = 1


class GraphTime(_Frozen):
    """The number of one graph's calls in one pass, their total time, and the median."""

    calls: int
    seconds: float
    median_s: float


class Profile(_Frozen):
    """The times of one pass: as a whole, and within each graph."""

    seconds: float
    graphs: dict[str, GraphTime]


class Round(_Frozen):
    """The measurements of one process.

    Attributes:
        seconds: Time of each call, from samples to text, by run and then by batch.
        audio_s: Seconds of audio of each batch, all recordings together.
        windows: Windows of the model's length of each batch.
        tokens: Tokens of each batch.
        load_s: Time to open the model.
        peak_rss_bytes: Peak memory of the process.
        profile: Times of the graphs; None for models without graphs.
    """

    seconds: tuple[tuple[float, ...], ...]
    audio_s: tuple[float, ...]
    windows: tuple[int, ...]
    tokens: tuple[int, ...]
    load_s: float
    peak_rss_bytes: int
    profile: Profile | None


def time_model(data: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load a model, warm up, time every batch in every run, then profile one more pass.

    Args:
        data: A `Request` as plain data.
        progress: Receives the current step and the fraction done.

    Returns:
        A `Round` as plain data, under `round`.
    """
    request = Request.model_validate(data)
    progress("loading", None)
    recogniser, load_s = opened(
        request.model,
        original=request.original,
        threads=request.threads,
        decoding=request.decoding,
        trust=request.trust,
    )
    forced = not request.audio and recogniser.opened.force_tokens(request.tokens)
    batches = _batches(request, recogniser)

    def transcribe(batch: list[Audio]) -> list[Any]:
        return recogniser.decode(batch, request.decoding)

    progress("warming up", None)
    for _ in range(_WARM_UPS):
        transcribe(batches[0])
    seconds, tokens = _time_runs(request, batches, transcribe, progress)
    if forced:  # the last ones may be no text
        tokens = tuple(request.tokens * len(batch) for batch in batches)
    peak_rss_bytes = hardware.peak_rss_bytes()
    progress("looking inside", None)
    rate = recogniser.sampling_rate
    window = recogniser.window
    measured = Round(
        seconds=seconds,
        audio_s=tuple(sum(map(len, batch)) / rate for batch in batches),
        windows=tuple(sum(-(-len(sound) // window) for sound in batch) for batch in batches),
        tokens=tokens,
        load_s=load_s,
        peak_rss_bytes=peak_rss_bytes,
        profile=profile(
            recogniser.opened.functions, lambda: [transcribe(batch) for batch in batches]
        ),
    )
    return {"round": measured.model_dump(mode="json")}


def _import_member(model: Path, original: bool) -> None:
    """Import the modules that open the model, so that the load time excludes imports."""
    if original:
        FAMILIES[family_name(read_json(model / "config.json"))]
    else:
        manifest = store.read_sealed(model)
        if light.opens(manifest):
            light.import_modules(manifest)
            return
        FAMILIES[manifest.family]
        TARGETS[manifest.kind]


def opened(
    model: Path, *, original: bool, threads: int, decoding: Decoding, trust: bool = False
) -> tuple[Recogniser, float]:
    """Open an artifact or an original checkpoint, and time it.

    Args:
        model: The folder.
        original: True for a checkpoint.
        threads: Number of threads.
        decoding: How it is to decode, of which an original needs the language to be opened.
        trust: Accept an artifact's code of unknown origin, or a checkpoint's pickle.

    Returns:
        The recogniser, and the seconds without imports.
    """
    _import_member(model, original)
    start = time.perf_counter()
    if original:
        recogniser = load.load_original(
            str(model), threads=threads, decoding=decoding, allow_pickle=trust
        )
    else:
        recogniser = load.load(model, threads=threads, trust=trust)
    return recogniser, time.perf_counter() - start


def _batches(request: Request, recogniser: Any) -> list[list[Audio]]:
    """Return the batches: windows of noise, or the recordings, the last batch filled up."""
    size = request.decoding.batch_size
    if not request.audio:
        length = recogniser.window
        noise = np.random.default_rng(_SEED).normal(0, _LOUDNESS, (size, length))
        return [list(noise.astype(np.float32))]
    sounds = [audio.whole(audio.read(path, recogniser.sampling_rate)) for path in request.audio]
    starts = range(0, len(sounds), size)
    return [[sounds[(start + n) % len(sounds)] for n in range(size)] for start in starts]


def _time_runs(
    request: Request,
    batches: list[list[Audio]],
    transcribe: Callable[[list[Audio]], list[Any]],
    progress: Progress,
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...]]:
    """Return the seconds by run and batch, and the number of tokens of each batch."""
    seconds, tokens = [], [0] * len(batches)
    for run in range(request.runs):
        progress(f"run {run + 1} of {request.runs}", run / request.runs)
        times = []
        for index, batch in enumerate(batches):
            start = time.perf_counter()
            transcripts = transcribe(batch)
            times.append(time.perf_counter() - start)
            tokens[index] = sum(len(transcript.tokens) for transcript in transcripts)
        seconds.append(tuple(times))
    return tuple(seconds), tuple(tokens)


def profile(functions: dict[str, Any] | None, call: Callable[[], object]) -> Profile | None:
    """Time a call as a whole and within each graph.

    Args:
        functions: A model's graphs by name, which it looks up there at every call.
        call: Calls the model.

    Returns:
        The times; None for a model without graphs.
    """
    if functions is None:
        return None
    with _clocked(functions) as calls:
        start = time.perf_counter()
        call()
        whole = time.perf_counter() - start
    graphs = {
        name: GraphTime(calls=len(each), seconds=sum(each), median_s=statistics.median(each))
        for name, each in calls.items()
        if each
    }
    return Profile(seconds=whole, graphs=graphs)


@contextmanager
def _clocked(functions: dict[str, Any]) -> Iterator[Mapping[str, list[float]]]:
    """Yield lists that receive the seconds of every call of a model's functions, by name."""
    originals = dict(functions)
    calls: dict[str, list[float]] = {name: [] for name in originals}
    functions.update({name: _Clocked(run, calls[name]) for name, run in originals.items()})
    try:
        yield calls
    finally:
        functions.update(originals)


class _Clocked:
    """Wraps a function and records the seconds of each of its calls."""

    def __init__(self, run: Callable[..., Any], seconds: list[float]) -> None:
        self._run = run
        self._seconds = seconds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = self._run(*args, **kwargs)
        self._seconds.append(time.perf_counter() - start)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)
