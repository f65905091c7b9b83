"""Time artifacts side by side, as in use: samples in, text out.

Every model is timed in fresh processes, in several rounds that each go through all models, so that
a slow phase of the machine affects all of them. Only one model runs at a time.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter import recipe
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.store import find_built_for
from exporter.artifact.trust import verify_and_authorize
from exporter.bench import stats
from exporter.bench.timing import Request, Round
from exporter.errors import DataError, ExporterError
from exporter.families import family_facts
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.system import hardware, worker
from exporter.system.accelerators import Device, require_device
from exporter.system.progress import Progress, silent

ROUNDS = 3
_BUSY = 0.5  # load average of the last minute: running and waiting processes
_FLOAT32_BYTES = 4
_MOST_AUDIO_S = 2 * 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """The work of every model.

    Attributes:
        audio: Recordings to transcribe. Without any, a batch of windows of noise is decoded.
        tokens: Number of tokens for each window of noise, where the family can force it.
        runs: Timed passes over the audio.
        batch: Batch size; the recipe's if None.
        beams: Number of beams; the recipe's if None.
    """

    audio: tuple[Path, ...] = ()
    tokens: int = 64
    runs: int = 12
    batch: int | None = None
    beams: int | None = None


@dataclass
class Row:
    """The measurements of one model with one number of threads, or the error of its timing."""

    name: str
    model: Path
    original: bool
    threads: int
    size_bytes: int
    decoding: Decoding
    family: str
    trust: bool = False
    device: str = "cpu"
    rounds: list[Round] = field(default_factory=list)
    error: ExporterError | None = None

    def as_row(self) -> dict[str, Any]:
        """Return plain data for JSON, with every round's samples."""
        error = self.error and {"kind": type(self.error).__name__, "message": str(self.error)}
        return {
            "name": self.name,
            "original": self.original,
            "threads": self.threads,
            "device": self.device,
            "size_bytes": self.size_bytes,
            "decoding": self.decoding.model_dump(mode="json"),
            "error": error,
            **({} if error else stats.of_rounds(self.rounds, family_facts(self.family).ENCODERS)),
            "rounds": [each.model_dump(mode="json") for each in self.rounds],
        }


def bench(
    paths: Sequence[Path],
    load: Workload,
    *,
    threads: Sequence[int] = (),
    original: bool = False,
    device: Device | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> list[Row]:
    """Time artifacts with each number of threads.

    An error while a model is timed is stored in its row. The errors below are raised before
    anything is timed, or if no model could be timed.

    Args:
        paths: Artifacts, or folders of them.
        load: The work of every model.
        threads: Numbers of threads, at most this machine's cores; if empty, those that an artifact
            was compiled for, or all cores.
        original: Also time the checkpoints that the artifacts were built from, each on the device
            of its artifact.
        device: Time only the artifacts of folders that were built for this kind of device.
        trust: Also time artifacts whose code was not built here.
        progress: Receives the current step and the fraction done.

    Returns:
        A row for each model and number of threads.

    Raises:
        RecipeError: There is an artifact, and none for the device.
        IntegrityError: There is no artifact, or one is damaged.
        TrustError: Code is of unknown origin.
        MachineError: This machine lacks cores, features or the device.
        DataError: A recording cannot be read.
        CheckpointError: An original checkpoint cannot be used.
    """
    _check(load, threads)
    folders = [folder for path in paths for folder in find_built_for(device, path)]
    manifests = [verify_and_authorize(folder, trust=trust) for folder in folders]
    rows = [
        row
        for folder, manifest in zip(folders, manifests, strict=True)
        for row in _artifact_rows(folder, manifest, load, threads, trust=trust)
    ]
    if original:
        rows += _original_rows(folders, manifests, rows, progress)
    _warn(rows)
    _time_rounds(rows, load, progress)
    errors = [row.error for row in rows if row.error]
    if len(errors) == len(rows):
        raise errors[0]
    return rows


def _check(load: Workload, threads: Sequence[int]) -> None:
    hardware.require_cores(max(threads, default=1))
    if sum(map(audio.duration_s, load.audio)) > _MOST_AUDIO_S:
        msg = (
            f"the recordings are longer than {_MOST_AUDIO_S // 3600} hours together, and would all "
            "be in memory while they are timed: give fewer"
        )
        raise DataError(msg)


def _artifact_rows(
    folder: Path, manifest: Manifest, load: Workload, threads: Sequence[int], *, trust: bool
) -> list[Row]:
    """Return a row for each number of threads: requested, compiled in, or all cores."""
    own = manifest.threads or hardware.describe().cores
    decoding = _decoding(recipe.read(folder / RECIPE).decoding, load)
    return [
        Row(
            name=str(folder),
            model=folder,
            original=False,
            threads=count,
            size_bytes=manifest.size_bytes,
            decoding=decoding,
            family=manifest.family,
            trust=trust,
            device=manifest.needs.device,
        )
        for count in threads or (own,)
    ]


_ONE_PASS: Mapping[str, Any] = {
    "temperatures": (0.0,),
    "compression_ratio_threshold": None,
    "logprob_threshold": None,
    "no_speech_threshold": None,
    "long_form": "sequential",
    "vad": False,
    "clip_timestamps": None,
}


def _decoding(wanted: Decoding, load: Workload) -> Decoding:
    """Return the recipe's decoding with the workload's changes.

    Noise gets no timestamps, and one pass: it would fail every threshold, and is no speech.
    """
    changes: dict[str, Any] = {} if load.audio else {"timestamps": False, **_ONE_PASS}
    if load.batch:
        changes["batch_size"] = load.batch
    if load.beams:
        changes["num_beams"] = load.beams
    return wanted.model_copy(update=changes)


def _original_rows(
    folders: Sequence[Path], manifests: Sequence[Manifest], rows: Sequence[Row], progress: Progress
) -> list[Row]:
    """Return a row for each checkpoint in float32, decoded like its first artifact."""
    from exporter.recognition.reference import References

    references = References("run this where you ran `exporter build`", progress)
    originals: dict[tuple[str, int, str], Row] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        sealed = recipe.read(folder / RECIPE)
        allowed, language = sealed.allow_pickle, sealed.decoding.language
        checkpoint = references.of_artifact(
            folder, manifest, allow_pickle=allowed, language=language
        )
        for row in [row for row in rows if row.model == folder]:
            original = Row(
                name=f"{checkpoint.source} in float32",
                model=checkpoint.folder,
                original=True,
                threads=row.threads,
                size_bytes=_FLOAT32_BYTES * checkpoint.parameters,
                decoding=row.decoding,
                family=row.family,
                trust=allowed,
                device=row.device,
            )
            originals.setdefault((checkpoint.sha256, row.threads, row.device), original)
    return list(originals.values())


def _warn(rows: Sequence[Row]) -> None:
    """Log warnings about conditions that make the figures misleading."""
    busy = os.getloadavg()[0]
    if busy > _BUSY:
        _log.warning("this machine is not idle (load average %.1f): times will be too long", busy)
    if len({(row.decoding.num_beams, row.decoding.batch_size) for row in rows}) > 1:
        _log.warning("recipes differ in beams or batch: give --beams and --batch to compare")


def _time_rounds(rows: Sequence[Row], load: Workload, progress: Progress) -> None:
    """Fill the rows, round by round, every other round in the opposite order."""
    rounds = min(ROUNDS, load.runs)
    for number in range(rounds):
        runs = load.runs // rounds + (number < load.runs % rounds)
        order = rows if number % 2 == 0 else list(reversed(rows))
        for place, row in enumerate(order):
            if row.error is None:
                done = (number + place / len(rows)) / rounds
                _time_row(row, load, runs, progress, (done, 1 / len(rows) / rounds))


def _time_row(
    row: Row, load: Workload, runs: int, progress: Progress, stretch: tuple[float, float]
) -> None:
    """Time a model once more in a fresh process.

    `stretch` is the fraction of the total progress at which this begins, and its share of it.
    """
    what = f"{row.name}, threads {row.threads}"

    def report(doing: str, done: float | None) -> None:
        progress(f"{what}: {doing}", stretch[0] + stretch[1] * (done or 0))

    step = "exporter.bench.timing:time_model"
    try:
        request = Request(
            model=row.model.resolve(),
            original=row.original,
            trust=row.trust,
            threads=row.threads,
            decoding=row.decoding,
            audio=tuple(path.resolve() for path in load.audio),
            tokens=load.tokens,
            runs=runs,
            device=require_device(row.device, what=row.name),
        )
        data = request.model_dump(mode="json")
        answer = worker.run(step, data, report, what=what, threads=row.threads)
    except ExporterError as error:
        row.error = error
        return
    row.rounds.append(Round.model_validate(answer["round"]))
