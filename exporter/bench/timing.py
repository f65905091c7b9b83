"""Time one model in one fresh process: what `exporter.system.worker` runs for `bench`.

Separate from the parent so that load time and peak memory are those of this model only. The graphs
are timed in a pass after the timed runs, because these clocks cost time themselves.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from exporter.artifact import store
from exporter.bench.clock import Clock, HostClock, clock_of
from exporter.families import FAMILIES, family_name
from exporter.formats import audio
from exporter.formats.config_json import read_json
from exporter.recipe import Decoding
from exporter.recognition import light, load
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.transcript import Audio
from exporter.system import hardware
from exporter.system.accelerators import Device
from exporter.system.progress import Progress
from exporter.targets import TARGETS

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")
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
        device: The kind of device that the model runs on.
    """

    model: Path
    original: bool
    trust: bool = False
    device: Device = "cpu"
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
        first_s: Time of the first call, which may allocate, compile or capture.
        peak_rss_bytes: Peak memory of the process.
        device_memory_bytes: The card's memory that the model takes after all calls, beyond what a
            process takes that computes nothing; None on a CPU.
        profile: Times of the graphs; None for models without graphs.
    """

    seconds: tuple[tuple[float, ...], ...]
    audio_s: tuple[float, ...]
    windows: tuple[int, ...]
    tokens: tuple[int, ...]
    load_s: float
    first_s: float | None = None
    peak_rss_bytes: int
    device_memory_bytes: int | None = None
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
    model = opened(
        request.model,
        original=request.original,
        threads=request.threads,
        decoding=request.decoding,
        trust=request.trust,
        device=request.device,
    )
    recogniser, clock = model.recogniser, model.clock
    forced = not request.audio and recogniser.opened.force_tokens(request.tokens)
    batches = _batches(request, recogniser)

    def transcribe(batch: list[Audio]) -> list[Any]:
        return recogniser.decode(batch, request.decoding)

    progress("warming up", None)
    first_s, *_ = [seconds_of(clock, transcribe, batches[0])[1] for _ in range(_WARM_UPS)]
    seconds, tokens = _time_runs(request, batches, transcribe, clock, progress)
    if forced:  # the last ones may be no text
        tokens = tuple(request.tokens * len(batch) for batch in batches)
    peak_rss_bytes = hardware.peak_rss_bytes()
    device_memory_bytes = model.device_memory_bytes()
    progress("looking inside", None)
    rate = recogniser.sampling_rate
    window = recogniser.window
    measured = Round(
        seconds=seconds,
        audio_s=tuple(sum(map(len, batch)) / rate for batch in batches),
        windows=tuple(sum(-(-len(sound) // window) for sound in batch) for batch in batches),
        tokens=tokens,
        load_s=model.load_s,
        first_s=first_s,
        peak_rss_bytes=peak_rss_bytes,
        device_memory_bytes=device_memory_bytes,
        profile=profile(
            recogniser.opened.functions, lambda: [transcribe(batch) for batch in batches], clock
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


@dataclass(frozen=True)
class Opened:
    """An open model, with what opening it took.

    Attributes:
        recogniser: The model.
        load_s: Seconds to open it, without imports.
        clock: The clock of the device that it runs on.
        idle_bytes: The card's memory in use before it was opened; None on a CPU.
    """

    recogniser: Recogniser
    load_s: float
    clock: Clock
    idle_bytes: int | None

    def device_memory_bytes(self) -> int | None:
        """Return the card's memory that the model takes now; None on a CPU.

        What torch and onnxruntime have freed is among it: they keep it for what comes next.
        """
        used = self.clock.used_bytes()
        if used is None or self.idle_bytes is None:
            return None
        return max(used - self.idle_bytes, 0)  # another process may have freed some


def opened(
    model: Path,
    *,
    original: bool,
    threads: int,
    decoding: Decoding,
    trust: bool = False,
    device: Device = "cpu",
) -> Opened:
    """Open an artifact or an original checkpoint, and time it.

    Args:
        model: The folder.
        original: True for a checkpoint.
        threads: Number of threads.
        decoding: How it is to decode, of which an original needs the language to be opened.
        trust: Accept an artifact's code of unknown origin, or a checkpoint's pickle.
        device: The kind of device to run it on.

    Returns:
        The recogniser, the seconds without imports, and the device's clock, whose start counts.
    """
    _import_member(model, original)
    start = HostClock().now()
    clock = clock_of(device)
    idle_bytes = clock.used_bytes()
    if original:
        recogniser = load.load_original(
            str(model), threads=threads, decoding=decoding, allow_pickle=trust, device=device
        )
    else:
        recogniser = load.load(model, threads=threads, trust=trust, device=device)
    return Opened(recogniser, clock.now() - start, clock, idle_bytes)


def seconds_of(
    clock: Clock, call: Callable[[_Given], _Result], given: _Given
) -> tuple[_Result, float]:
    """Return what a call returns, and its seconds."""
    start = clock.now()
    result = call(given)
    return result, clock.now() - start


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
    clock: Clock,
    progress: Progress,
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...]]:
    """Return the seconds by run and batch, and the number of tokens of each batch."""
    seconds, tokens = [], [0] * len(batches)
    for run in range(request.runs):
        progress(f"run {run + 1} of {request.runs}", run / request.runs)
        times = []
        for index, batch in enumerate(batches):
            transcripts, spent = seconds_of(clock, transcribe, batch)
            times.append(spent)
            tokens[index] = sum(len(transcript.tokens) for transcript in transcripts)
        seconds.append(tuple(times))
    return tuple(seconds), tuple(tokens)


def profile(
    functions: dict[str, Any] | None, call: Callable[[], object], clock: Clock
) -> Profile | None:
    """Time a call as a whole and within each graph.

    Args:
        functions: A model's graphs by name, which it looks up there at every call.
        call: Calls the model.
        clock: The clock of its device.

    Returns:
        The times; None for a model without graphs.
    """
    if functions is None:
        return None
    with _clocked(functions, clock) as calls:
        start = clock.now()
        call()
        whole = clock.now() - start
    graphs = {
        name: GraphTime(calls=len(each), seconds=sum(each), median_s=statistics.median(each))
        for name, each in calls.items()
        if each
    }
    return Profile(seconds=whole, graphs=graphs)


@contextmanager
def _clocked(functions: dict[str, Any], clock: Clock) -> Iterator[Mapping[str, list[float]]]:
    """Yield lists that receive the seconds of every call of a model's functions, by name."""
    originals = dict(functions)
    calls: dict[str, list[float]] = {name: [] for name in originals}
    functions.update({name: _Clocked(run, calls[name], clock) for name, run in originals.items()})
    try:
        yield calls
    finally:
        functions.update(originals)


class _Clocked:
    """Wraps a function and records the seconds of each of its calls."""

    def __init__(self, run: Callable[..., Any], seconds: list[float], clock: Clock) -> None:
        self._run, self._seconds, self._clock = run, seconds, clock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = self._clock.now()
        result = self._run(*args, **kwargs)
        self._seconds.append(self._clock.now() - start)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)
