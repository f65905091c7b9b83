"""Transcribe files for the command line, in a process of its own where that protects something.

An artifact may hold native code, and a stranger's graph may crash a library or never end: both run
in a process without the user's credentials, with limits, whose crash is reported as an error. Only
what this machine built itself runs in this one, which spares the start of an interpreter.
Artifacts of the Hub are pulled before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.artifact.build_registry import built_here
from exporter.errors import DataError, RecipeError
from exporter.recognition import light, load
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.decoding import unknown_option
from exporter.runtime.transcript import Segment, Transcript
from exporter.system import worker
from exporter.system.files import readable_name
from exporter.system.progress import Progress

OnOutcome = Callable[[Path, Transcript | DataError], None]


@dataclass(frozen=True)
class Request:
    """An artifact, the files to transcribe, and the `changes` to the recipe's decoding.

    `artifact` is a folder, or `ORG/NAME` or `ORG/NAME@REVISION` of the Hub; `trust` allows its
    native code to run; a `device` that it was not built for is refused. With `live`, segments are
    told as they come, so that recordings are decoded one by one.
    """

    artifact: str
    audio: tuple[Path, ...]
    changes: dict[str, Any]
    threads: int | None
    trust: bool
    live: bool = False
    device: str | None = None


def transcribe_files(
    request: Request,
    progress: Progress,
    on_outcome: OnOutcome,
    on_segment: Callable[[Path, Segment], None] | None = None,
) -> None:
    """Transcribe files, and tell each outcome as soon as it is there.

    Args:
        request: The artifact and the files.
        progress: Called with the current activity and the fraction done.
        on_outcome: Called with each file's path and its transcript, or the error of a file that
            cannot be used, as soon as it is done.
        on_segment: Called with each file's path and its next segment, if the request is `live`.

    Raises:
        ExporterError: As `load.locate` and `worker.run` raise it.
    """
    folder = load.locate(request.artifact, progress, trust=request.trust)
    left = list(reversed(request.audio))

    def on_result(row: dict[str, Any]) -> None:
        if "segment" in row:
            if on_segment is not None:
                on_segment(left[-1], Segment.of_dict(row["segment"]))
        elif "error" in row:
            on_outcome(left.pop(), DataError(row["error"]))
        else:
            on_outcome(left.pop(), Transcript.of_dict(row))

    audio = list(map(str, request.audio))
    plain = {**asdict(request), "artifact": str(folder), "audio": audio}
    if runs_here(folder):
        for row in transcribe(plain, progress):
            on_result(row)
        return
    step = f"{__name__}:transcribe"
    worker.run(step, plain, progress, what=request.artifact, on_result=on_result)


def runs_here(folder: Path) -> bool:
    """Return whether an artifact needs no process of its own: it is light, and built here."""
    manifest = store.read_sealed(folder)
    return light.opens(manifest) and built_here(manifest)


def transcribe(step_request: dict[str, Any], progress: Progress) -> Iterator[dict[str, Any]]:
    """Load the artifact, transcribe the files, and yield each transcript or error as plain data.

    A file that cannot be used costs no other file's text.
    """
    audio = tuple(map(Path, step_request["audio"]))
    request = Request(**{**step_request, "audio": audio})
    progress("loading", None)
    recogniser = load.load(
        request.artifact, device=request.device, threads=request.threads, trust=request.trust
    )
    if message := unknown_option(request.changes):
        msg = f"{request.artifact} has {message}"
        raise RecipeError(msg)
    run = _live if request.live else _batched
    done = 0
    while done < len(request.audio):
        files = _reported(request.audio, done, progress)
        try:
            for row in run(recogniser, files, request.changes):
                done += "segment" not in row
                yield row
        except DataError as error:  # of the next file, since those before it are done
            done += 1
            yield {"error": str(error)}


def _batched(
    recogniser: Recogniser, files: Iterator[Path], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the transcripts of files that are decoded together."""
    for transcript in recogniser.transcribe_iter(files, **options):
        yield transcript.to_dict()


def _live(
    recogniser: Recogniser, files: Iterator[Path], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the segments of each file as they come, and then its transcript."""
    for path in files:
        segments = recogniser.segments(path, **options)
        while True:
            try:
                yield {"segment": next(segments).to_dict()}
            except StopIteration as end:
                yield end.value.to_dict()
                break


def _reported(paths: Sequence[Path], done: int, progress: Progress) -> Iterator[Path]:
    """Yield the files that are not done one by one, and report each to `progress`."""
    for index, path in enumerate(paths[done:], done):
        name = readable_name(path.name)
        progress(f"file {index + 1} of {len(paths)} ({name})", index / len(paths))
        yield path
