"""Transcribe recordings for commands, in a process of its own where that protects something.

An artifact may hold native code, and a stranger's graph may crash a library or never end: both run
in a process without the user's credentials, with limits, whose crash is reported as an error. Only
what this machine built itself runs in this one, which spares the start of an interpreter.
Artifacts of the Hub are pulled before. Audio in an object store is brought for a process without
credentials, some at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.artifact.build_registry import built_here
from exporter.errors import DataError, RecipeError
from exporter.formats.audio import Encoded
from exporter.formats.audio.cutting import header_s
from exporter.formats.clips.opening import Opener
from exporter.recognition import light, load
from exporter.recognition.meter import Meter
from exporter.recognition.recogniser import Recogniser
from exporter.recognition.recordings import Recording, Recordings
from exporter.runtime.decoding import unknown_option
from exporter.runtime.transcript import Segment, Transcript
from exporter.system import worker
from exporter.system.files import readable_name
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch

OnOutcome = Callable[[Recording, Transcript | DataError], None]
OnSegment = Callable[[Recording, Segment], None]

_MOST_BYTES = 1 << 30  # of audio that is brought from an object store at a time


@dataclass(frozen=True)
class Request:
    """An artifact, the recordings to transcribe, and the `changes` to the recipe's decoding.

    `artifact` is a folder, or `ORG/NAME` or `ORG/NAME@REVISION` of the Hub; `trust` allows its
    native code to run; a `device` that it was not built for is refused. With `live`, segments are
    told as they come, so that recordings are decoded one by one.
    """

    artifact: str
    recordings: Recordings
    changes: dict[str, Any]
    threads: int | None
    trust: bool
    live: bool = False
    device: str | None = None

    def to_data(self) -> dict[str, Any]:
        """Return the request as data for another process."""
        return {**vars(self), "recordings": self.recordings.to_data()}

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> Request:
        """Return the request that `to_data` gave."""
        return cls(**{**data, "recordings": Recordings.of_data(data["recordings"])})


def transcribe_files(
    request: Request,
    progress: Progress,
    on_outcome: OnOutcome,
    on_segment: OnSegment | None = None,
) -> None:
    """Transcribe recordings, and tell each outcome as soon as it is there.

    Args:
        request: The artifact and the recordings.
        progress: Called with the current activity and the fraction done.
        on_outcome: Called with each recording and its transcript, or the error of one that cannot
            be used, as soon as it is done.
        on_segment: Called with each recording and its next segment, if the request is `live`.

    Raises:
        ExporterError: As `load.locate` and `worker.run` raise it, and what `on_outcome` raises.
    """
    folder = load.locate(request.artifact, progress, trust=request.trust)
    what, local = request.artifact, replace(request, artifact=str(folder))
    if runs_here(folder):
        on_result = _telling(iter(request.recordings), on_outcome, on_segment)
        for row in transcribe(local.to_data(), progress):
            on_result(row)
    elif request.recordings.remote:
        _brought(local, what, progress, on_outcome, on_segment)
    else:
        on_result = _telling(iter(request.recordings), on_outcome, on_segment)
        _run(local, what, progress, on_result)


def _run(
    request: Request, what: str, progress: Progress, on_result: Callable[[dict[str, Any]], None]
) -> None:
    step = f"{__name__}:transcribe"
    worker.run(step, request.to_data(), progress, what=what, on_result=on_result)


def _telling(
    recordings: Iterator[Recording], on_outcome: OnOutcome, on_segment: OnSegment | None
) -> Callable[[dict[str, Any]], None]:
    """Return what tells the results of recordings, which come in their order."""
    current: list[Recording] = []

    def on_result(row: dict[str, Any]) -> None:
        if not current:
            current.append(next(recordings))
        if "segment" in row:
            if on_segment is not None:
                on_segment(current[0], Segment.of_dict(row["segment"]))
        elif "error" in row:
            on_outcome(current.pop(), DataError(row["error"]))
        else:
            on_outcome(current.pop(), Transcript.of_dict(row))

    return on_result


def _brought(
    request: Request,
    what: str,
    progress: Progress,
    on_outcome: OnOutcome,
    on_segment: OnSegment | None,
) -> None:
    """Transcribe recordings of an object store: some are brought here, and then transcribed."""
    left = iter(request.recordings)
    first = next(left, None)
    while first is not None:
        with scratch() as place, Opener() as opener:
            some, originals, size = Recordings(), [], 0
            for each in chain([first], left):
                first = None
                if size > _MOST_BYTES:
                    first = each
                    break
                progress(f"fetching {each.name}", None)
                try:
                    clip, _ = opener.staged(each.clip, place, f"audio-{len(some):06}")
                except DataError as error:
                    on_outcome(each, error)
                    continue
                size += clip.path.stat().st_size
                originals.append(each)
                some.add(replace(each, clip=clip))
            if originals:
                told = _telling(iter(originals), on_outcome, on_segment)
                _run(replace(request, recordings=some), what, progress, told)


def runs_here(folder: Path) -> bool:
    """Return whether an artifact needs no process of its own: it is light, and built here."""
    manifest = store.read_sealed(folder)
    return light.opens(manifest) and built_here(manifest)


def transcribe(step_request: dict[str, Any], progress: Progress) -> Iterator[dict[str, Any]]:
    """Load the artifact, transcribe, and yield each transcript or error as plain data.

    A recording that cannot be used costs no other one's text.
    """
    request = Request.of_data(step_request)
    progress("loading", None)
    recogniser = load.load(
        request.artifact, device=request.device, threads=request.threads, trust=request.trust
    )
    if message := unknown_option(request.changes):
        msg = f"{request.artifact} has {message}"
        raise RecipeError(msg)
    run = _live if request.live else _batched
    with Opener() as opener:
        queue = _Queue(request.recordings, opener, progress)
        while queue.has_more():
            try:
                for row in run(recogniser, queue.opened(), request.changes):
                    if "segment" not in row:
                        queue.done()
                    yield row
            except DataError as error:  # of the next one, since those before it are done
                yield {"error": queue.explained(error)}
                queue.done()


class _Queue:
    """The recordings that are not done; those that were opened and not done are opened again."""

    def __init__(self, recordings: Recordings, opener: Opener, progress: Progress) -> None:
        self._left = iter(recordings)
        self._opener, self._progress = opener, progress
        self._meter = Meter(recordings)
        self._begun: deque[tuple[Recording, float]] = deque()  # with their seconds

    def has_more(self) -> bool:
        """Return whether a recording is left."""
        if not self._begun and (following := next(self._left, None)) is not None:
            self._begun.append((following, 0.0))
        return bool(self._begun)

    def opened(self) -> Iterator[Path | Encoded]:
        """Open the recordings one by one, and tell each."""
        again = [recording for recording, _ in self._begun]
        self._begun.clear()
        for recording in chain(again, self._left):
            self._begun.append((recording, recording.clip.duration_s))
            name = recording.clip.path.name if recording.clip.part is None else recording.name
            self._progress(*self._meter.told(name))
            audio = self._opener.open(recording.clip)
            encoded = Encoded(audio, readable_name(recording.name))
            if not recording.clip.duration_s:
                with suppress(DataError):  # which reading it tells
                    self._begun[-1] = recording, header_s(encoded)
            yield encoded if isinstance(audio, bytes) else audio

    def done(self) -> None:
        """Take note that the first recording that was opened is done."""
        recording, seconds = self._begun.popleft()
        self._meter.heard(seconds, recording.clip.size_bytes)

    def explained(self, error: DataError) -> str:
        """Return the message of an error of the first recording that was opened."""
        where = self._begun[0][0].clip.where
        text = str(error)
        return text if not where or where in text else f"{where}: {text}"


def _batched(
    recogniser: Recogniser, audio: Iterable[Path | Encoded], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the transcripts of recordings that are decoded together."""
    for transcript in recogniser.transcribe_iter(audio, **options):
        yield transcript.to_dict()


def _live(
    recogniser: Recogniser, audio: Iterable[Path | Encoded], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the segments of each recording as they come, and then its transcript."""
    for each in audio:
        segments: Generator[Segment, None, Transcript] = recogniser.segments(each, **options)
        while True:
            try:
                yield {"segment": next(segments).to_dict()}
            except StopIteration as end:
                yield end.value.to_dict()
                break
