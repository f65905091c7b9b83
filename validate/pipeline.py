"""Validate sealed artifacts: bytes first, then data, then one measurement after the other.

Measurements never overlap, because two models on the same cores would time each other; where it
hangs by little, both take turns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact import local_paths, report, store
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.report import Report
from exporter.artifact.trust import verify_and_authorize
from exporter.errors import (
    BuildError,
    DataError,
    ExporterError,
    IntegrityError,
    MachineError,
    ResourceError,
)
from exporter.formats.clips import Clip, digest, read_clips
from exporter.formats.config_json import read_json
from exporter.recipe import Data, Recipe, read
from exporter.system import hardware
from exporter.system.files import write_atomic
from exporter.system.progress import Progress
from validate import gate, html_report
from validate.dataset import dataset_clips
from validate.measure import (
    Measurement,
    Request,
    measure_fresh,
    remeasure_if_slow,
    time_interleaved,
)
from validate.wer import Normaliser, normaliser

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint
    from exporter.runtime.reference import References

# The original's size is told as its weights in float32, the type in which it runs here.
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Subject:
    """One artifact to judge: whole by its hashes, with its recipe and the clips it will hear."""

    folder: Path
    manifest: Manifest
    recipe: Recipe
    data: Data
    clips: tuple[Clip, ...]
    data_sha256: str

    @property
    def name(self) -> str:
        """The artifact's folder, which is called as its target is in the recipe."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class Settings:
    """What the command line says: other data, fewer clips, another reference, threads, trust."""

    data: str | None
    max_clips: int | None
    reference: str | None
    threads: int | None
    trust: bool


def validate(
    paths: Sequence[Path | str],
    *,
    data: str | None = None,
    clips: int | None = None,
    reference: str | None = None,
    threads: int | None = None,
    trust: bool = False,
    progress: Progress = lambda _what, _fraction: None,
) -> list[Report]:
    """Judge each artifact at `paths` (or in the folders there) against its original checkpoint.

    Writes report.json, report.html and predictions.jsonl beside each manifest and gives the
    reports, whatever their verdict. `progress` hears what is being done and how far, 0 to 1.
    With `trust`, also artifacts whose code was not built on this machine. Raises DataError,
    CheckpointError, IntegrityError, TrustError, MachineError, ResourceError or BuildError.
    """
    settings = Settings(data, clips, reference, threads, trust)
    folders = [folder for path in paths for folder in store.find(Path(path))]
    if not folders:
        msg = f"no artifact in {', '.join(map(str, paths))}: build one with exporter build RECIPE"
        raise IntegrityError(msg)
    subjects = [_subject(folder, settings, progress) for folder in folders]
    from exporter.runtime.reference import References  # and torch, but nothing before the gate

    found = References("name it with --reference", progress)
    originals = [_original(subject, settings, found) for subject in subjects]
    measured: dict[str, Measurement] = {}
    reports: list[Report] = []
    failures: list[ExporterError] = []
    for subject, checkpoint in zip(subjects, originals, strict=True):
        request = _request(subject, settings, checkpoint.folder, original=True)
        key = f"{checkpoint.sha256} {request.decoding!r} {subject.data_sha256} {request.threads}"
        if key not in measured:
            measured[key] = measure_fresh(request, "original", progress)
        try:
            both = _measured(subject, settings, measured[key], request, progress)
            reports.append(_judge(subject, checkpoint, *both))
        except (BuildError, MachineError, ResourceError) as error:
            failures.append(error)  # one that cannot run must not keep the others from a verdict
    if failures:
        raise failures[0]
    return reports


def _subject(folder: Path, settings: Settings, progress: Progress) -> Subject:
    """Check the bytes and read the clips, so that no model runs for nothing."""
    progress(f"{folder.name}: checking bytes", None)
    manifest = verify_and_authorize(folder, trust=settings.trust)
    recipe = read(folder / RECIPE)
    data = recipe.data
    if settings.data:
        data = Data(clips=settings.data, seed=data.seed if data else 0)
    if data is None:
        msg = f"{folder}: its recipe names no data to validate on: give --data FOLDER_OR_MANIFEST"
        raise DataError(msg)
    if settings.max_clips:
        data = data.model_copy(update={"max_clips": settings.max_clips})
    base = Path() if settings.data else Path(local_paths.read(folder, manifest).recipe).parent
    if data.clips and not settings.data and not (base / data.clips).exists():
        msg = f"{folder}: its recipe's clips are not at {base / data.clips}: name them with --data"
        raise DataError(msg)
    clips = tuple(_clips(data, base))
    return Subject(folder, manifest, recipe, data, clips, digest(clips))


def _clips(data: Data, base: Path) -> list[Clip]:
    if data.clips is None:
        return dataset_clips(data)
    return read_clips(base / data.clips, max_clips=data.max_clips, seed=data.seed)


def _original(subject: Subject, settings: Settings, originals: References) -> Checkpoint:
    """The checkpoint to compare with: the artifact's own origin unless another one is given."""
    if settings.reference:
        return originals.open(settings.reference, allow_pickle=subject.recipe.allow_pickle)
    return originals.of_artifact(
        subject.folder, subject.manifest, allow_pickle=subject.recipe.allow_pickle
    )


def _threads(subject: Subject, settings: Settings) -> int:
    """The same for both sides: as asked, as compiled into the artifact, or all cores."""
    baked: int | None = subject.manifest.options.get("threads")
    return settings.threads or baked or hardware.describe().cores


def _request(subject: Subject, settings: Settings, model: Path, *, original: bool) -> Request:
    return Request(
        model=model.resolve(),
        original=original,
        trust=subject.recipe.allow_pickle if original else settings.trust,
        threads=_threads(subject, settings),
        decoding=subject.recipe.decoding,
        clips=tuple(clip.path.resolve() for clip in subject.clips),
    )


def _measured(
    subject: Subject,
    settings: Settings,
    ours: Measurement,
    original: Request,
    progress: Progress,
) -> tuple[Measurement, Measurement]:
    """Measure one artifact; where it seems too slow, time it and the original by turns."""
    name = f"{subject.manifest.recipe.name}/{subject.name}"
    (subject.folder / report.REPORT).unlink(missing_ok=True)  # of no use if this one crashes
    request = _request(subject, settings, subject.folder, original=False)
    theirs = measure_fresh(request, name, progress)
    too_slow = partial(gate.too_slow, most=subject.recipe.gate.max_latency_ratio)
    in_turns = partial(time_interleaved, [original, request], name, progress)
    both = remeasure_if_slow(ours, theirs, too_slow, in_turns)
    store.require_same(subject.folder, subject.manifest)
    return both


def _judge(
    subject: Subject, checkpoint: Checkpoint, ours: Measurement, theirs: Measurement
) -> Report:
    """Judge one artifact, and write its three files, the report last."""
    equal = normaliser(_language(subject), subject.folder)
    truth = [equal.apply(clip.text) for clip in subject.clips]
    case = gate.Comparison(
        clips=subject.clips,
        truth=truth,
        reference=gate.side(ours, truth, equal.apply, _FLOAT32_BYTES * checkpoint.parameters),
        candidate=gate.side(theirs, truth, equal.apply, subject.manifest.size_bytes),
    )
    predictions = _predictions(case)
    made = _report(subject, checkpoint, case, equal, predictions)
    shown = html_report.render(made, case).encode()
    made = made.model_copy(update={"page_sha256": hashlib.sha256(shown).hexdigest()})
    write_atomic(subject.folder / report.PREDICTIONS, predictions)
    write_atomic(subject.folder / report.PAGE, shown)
    return report.write(subject.folder, made)


def _language(subject: Subject) -> str | None:
    """The language of the texts: the recipe's, the one that all clips share, or the model's."""
    decoding = subject.recipe.decoding
    if decoding.task == "translate":
        return "en"
    shared = {clip.language for clip in subject.clips}
    said = decoding.language or (shared.pop() if len(shared) == 1 else None)
    from exporter.families import FAMILIES

    family = FAMILIES[subject.manifest.family]
    config, generation = (
        read_json(subject.folder / name) for name in ("config.json", "generation_config.json")
    )
    return said or family.only_language(config, generation)


def _report(
    subject: Subject,
    checkpoint: Checkpoint,
    case: gate.Comparison,
    equal: Normaliser,
    predictions: bytes,
) -> Report:
    manifest, recipe, data = subject.manifest, subject.recipe, subject.data
    judged = gate.judge(case, recipe.gate, len(manifest.files))
    measured = case.candidate.measurement
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=judged.verdict,
        sentence=judged.sentence,
        checks=judged.checks,
        artifact=report.ArtifactStamp(
            digest=manifest.digest,
            name=subject.name,
            recipe=manifest.recipe.name,
            kind=manifest.kind,
            family=manifest.family,
            options=manifest.options,
            size_bytes=manifest.size_bytes,
        ),
        reference=report.ReferenceStamp(
            source=checkpoint.name,
            revision=checkpoint.revision,
            sha256=checkpoint.sha256,
            size_bytes=checkpoint.size_bytes,
            built_from=checkpoint.sha256 == manifest.checkpoint.sha256,
        ),
        data=report.DataStamp(
            source=data.shown,
            sha256=subject.data_sha256,
            clips=len(case.clips),
            audio_s=sum(clip.duration_s for clip in case.clips),
            words=int(case.reference.scores.words.sum()),
            max_clips=data.max_clips,
            seed=data.seed,
        ),
        gate=recipe.gate,
        decoding=recipe.decoding,
        normaliser=equal.stamp,
        environment=report.Environment(
            machine=measured.machine, threads=measured.threads, versions=measured.versions
        ),
        reference_figures=gate.figures(case.reference, case.clips),
        figures=gate.figures(case.candidate, case.clips),
        wer_difference=judged.wer_difference,
        cer_difference=judged.cer_difference,
        latency_ratio=judged.latency_ratio,
        clips_changed=len(case.changed),
        slices=gate.slices(case),
        worst=gate.worst(case),
        predictions_sha256=hashlib.sha256(predictions).hexdigest(),
    )


def _predictions(case: gate.Comparison) -> bytes:
    """One JSON line a clip, in Open ASR's field names: enough to score again without running."""
    both = zip(
        case.clips, case.reference.measurement.heard, case.candidate.measurement.heard, strict=True
    )
    lines = [
        {
            "audio_filepath": clip.id,
            "duration": round(clip.duration_s, 4),
            "language": clip.language,
            "text": clip.text,
            "pred_text": its.text,
            "time": its.seconds,
            "tokens": its.tokens,
            "pred_text_reference": ours.text,
            "time_reference": ours.seconds,
            "tokens_reference": ours.tokens,
        }
        for clip, ours, its in both
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
