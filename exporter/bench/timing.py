"""Time one model in one fresh process: what `exporter.system.worker` runs for `bench`.

Separate from the parent so that load time and peak memory are this model's alone. Clocks inside the
model are set only after the timed runs, since they cost time themselves.
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
from exporter.families.transcript import Audio
from exporter.formats import audio
from exporter.formats.config_json import read_json
from exporter.recipe import Decoding
from exporter.runtime import load
from exporter.runtime.recogniser import Recogniser
from exporter.system import hardware
from exporter.system.progress import Progress
from exporter.targets import TARGETS

_WARM_UPS = 2
_SEED = 0
_LOUDNESS = 0.01  # of full scale: quiet noise


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(_Frozen):
    """What to time. `model` is an artifact, or an original checkpoint's folder.

    `trust` is the user's word for an artifact's code, or for an original's pickle.

    Without `audio`, a batch of windows of noise and, where the family can force that, exactly
    `tokens` tokens for each.
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
    """One graph's calls in one pass: how many, all their seconds, and the median one's."""

    calls: int
    seconds: float
    median_s: float


class Profile(_Frozen):
    """One pass with clocks in the model: its seconds, and those within each graph."""

    seconds: float
    graphs: dict[str, GraphTime]


class Round(_Frozen):
    """What one process measured: `seconds` of each call, by run and then by batch.

    A call takes samples in and gives text out. `audio_s`, `windows` (of the model's length) and
    `tokens` are those of one batch, all recordings together. Only models of graphs have a profile.
    """

    seconds: tuple[tuple[float, ...], ...]
    audio_s: tuple[float, ...]
    windows: tuple[int, ...]
    tokens: tuple[int, ...]
    load_s: float
    peak_rss_bytes: int
    profile: Profile | None


def time_model(data: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load, warm up, time every batch in every run, then one more pass with clocks inside."""
    request = Request.model_validate(data)
    progress("loading", None)
    recogniser, load_s = opened(
        request.model, original=request.original, threads=request.threads, trust=request.trust
    )
    forced = not request.audio and recogniser.family.force_tokens(recogniser.model, request.tokens)
    batches = _batches(request, recogniser)

    def transcribe(batch: list[Audio]) -> list[Any]:
        return recogniser.decode(batch, request.decoding)

    progress("warming up", None)
    for _ in range(_WARM_UPS):
        transcribe(batches[0])
    seconds, tokens = _time_runs(request, batches, transcribe, progress)
    if forced:  # the last of them may be no text
        tokens = tuple(request.tokens * len(batch) for batch in batches)
    peak_rss_bytes = hardware.peak_rss_bytes()
    progress("looking inside", None)
    rate = recogniser.sampling_rate
    window = recogniser.family.window(recogniser.processor)
    measured = Round(
        seconds=seconds,
        audio_s=tuple(sum(map(len, batch)) / rate for batch in batches),
        windows=tuple(sum(-(-len(sound) // window) for sound in batch) for batch in batches),
        tokens=tokens,
        load_s=load_s,
        peak_rss_bytes=peak_rss_bytes,
        profile=profile(recogniser.model, lambda: [transcribe(batch) for batch in batches]),
    )
    return {"round": measured.model_dump(mode="json")}


def _import_member(model: Path, original: bool) -> None:
    """Import what opens the model, so that this is not taken for the time of loading."""
    if original:
        FAMILIES[family_name(read_json(model / "config.json"))]
    else:
        manifest = store.read_manifest(model)
        FAMILIES[manifest.family]
        TARGETS[manifest.kind]


def opened(
    model: Path, *, original: bool, threads: int, trust: bool = False
) -> tuple[Recogniser, float]:
    """Open an artifact, or an original's folder, and tell the seconds beside those of imports."""
    _import_member(model, original)
    start = time.perf_counter()
    if original:
        recogniser = load.load_original(str(model), threads=threads, allow_pickle=trust)
    else:
        recogniser = load.load(model, threads=threads, trust=trust)
    return recogniser, time.perf_counter() - start


def _batches(request: Request, recogniser: Any) -> list[list[Audio]]:
    """What each call is given: windows of noise, or the recordings, the last batch filled up."""
    size = request.decoding.batch_size
    if not request.audio:
        length = recogniser.family.window(recogniser.processor)
        noise = np.random.default_rng(_SEED).normal(0, _LOUDNESS, (size, length))
        return [list(noise.astype(np.float32))]
    sounds = [audio.read(path, recogniser.sampling_rate) for path in request.audio]
    starts = range(0, len(sounds), size)
    return [[sounds[(start + n) % len(sounds)] for n in range(size)] for start in starts]


def _time_runs(
    request: Request,
    batches: list[list[Audio]],
    transcribe: Callable[[list[Audio]], list[Any]],
    progress: Progress,
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...]]:
    """Seconds by run and batch; and the tokens of each batch, which are the same in every run."""
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


def profile(model: Any, call: Callable[[], object]) -> Profile | None:
    """Time a call as a whole and within each graph; None for a model that has no graphs.

    One that has them keeps them by name in `engine.functions`, and looks there at every call.
    """
    functions = getattr(getattr(model, "engine", None), "functions", None)
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
    """Note every call's seconds for every one of a model's functions, by name."""
    originals = dict(functions)
    calls: dict[str, list[float]] = {name: [] for name in originals}
    functions.update({name: _Clocked(run, calls[name]) for name, run in originals.items()})
    try:
        yield calls
    finally:
        functions.update(originals)


class _Clocked:
    """A function that notes how long each of its calls takes; otherwise it is what it was."""

    def __init__(self, run: Callable[..., Any], seconds: list[float]) -> None:
        self._run = run
        self._seconds = seconds

    def __call__(self, *given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = self._run(*given, **named)
        self._seconds.append(time.perf_counter() - start)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)
