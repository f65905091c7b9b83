"""Validate sealed artifacts: bytes first, then data, then each model in two passes.

The timed pass runs alone, on a sample of the clips. The other transcribes all clips in one or more
workers; transcripts stay on disk until they are scored.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.artifact import report, store
from exporter.artifact.lookup import find
from exporter.artifact.report import Check, Report
from exporter.bench.executors import LocalExecutor
from exporter.errors import (
    BuildError,
    DataError,
    ExporterError,
    IntegrityError,
    MachineError,
    ResourceError,
)
from exporter.system import hardware
from exporter.system.files import copy_atomic, readable_name, write_atomic
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch
from exporter.validate.corpus.index import Corpora, RowFile
from exporter.validate.gate import judge as gate
from exporter.validate.measure.latency import Measurement, remeasure_if_slow, time_interleaved
from exporter.validate.measure.model import ModelSpec
from exporter.validate.measure.run import ModelRun
from exporter.validate.measure.transcripts import read_transcripts
from exporter.validate.page import render as html_report
from exporter.validate.scoring.compare import Comparison, ModelOutput, compare
from exporter.validate.scoring.wer import Normaliser, normaliser
from exporter.validate.subjects import Settings, Subject, open_subject

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint

_log = logging.getLogger(__name__)
# The original's size is reported as that of its weights in float32, in which it runs here.
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Pair:
    """An artifact and its original, both timed; `found` are the checks made before."""

    subject: Subject
    checkpoint: Checkpoint
    found: tuple[Check, ...]
    original: ModelRun
    artifact: ModelRun
    reference: Measurement
    candidate: Measurement


def validate(
    paths: Sequence[Path | str],
    *,
    data: str | None = None,
    clips: int | None = None,
    reference: str | None = None,
    threads: int | None = None,
    workers: int = 1,
    trust: bool = False,
    into: Path | None = None,
    progress: Progress = lambda _what, _fraction: None,
) -> list[Report]:
    """Judge each artifact at `paths` (or in the folders there) against its original checkpoint.

    Writes report.json, report.html and predictions.jsonl beside each manifest, or below `into`.

    Args:
        paths: Artifacts, or folders of them.
        data: A folder or manifest of clips, instead of the recipes' own.
        clips: Maximum number of clips; None: as the recipe says.
        reference: A checkpoint by folder or Hub id, instead of each artifact's own origin.
        threads: CPU threads of both sides; None: those compiled into an artifact, or all cores.
        workers: Processes that transcribe in parallel, each with that many threads. Timing runs
            alone.
        trust: Also validate artifacts whose native code was not built on this machine.
        into: A folder for the reports: see `report.places`.
        progress: Called with the current activity and the fraction done, 0 to 1.

    Returns:
        A report per artifact, whatever its verdict.

    Raises:
        ExporterError: DataError, CheckpointError, IntegrityError, TrustError, MachineError,
            ResourceError or BuildError; the others of `paths` are judged before it is raised.
    """
    settings = Settings(data, clips, reference, threads, workers, trust)
    folders = [folder for path in paths for folder in find(Path(path))]
    places = report.places(folders, into)
    for each in places:
        report.require_writable(each)
    with scratch() as place:
        corpora = Corpora(place, progress)
        subjects = [
            open_subject(folder, where, settings, corpora, progress)
            for folder, where in zip(folders, places, strict=True)
        ]
        _check_texts(subjects)
        return _Validation(settings, place, progress).judge(subjects)


def _check_texts(subjects: Sequence[Subject]) -> None:
    """Normalise every true text before anything is measured.

    Raises:
        DataError: One cannot be normalised, with its place in the data.
    """
    checked: set[object] = set()
    for subject in subjects:
        equal = normaliser(_language(subject), subject.folder)
        key = (subject.corpus.sha256, equal.stamp.model_dump_json())
        for clip in subject.corpus if key not in checked else ():
            try:
                equal.apply(clip.text)
            except DataError as error:
                msg = f"{clip.where or clip.id}: {error}"
                raise DataError(msg) from error
        checked.add(key)


class _Validation:
    """The models of one run; each original is timed and transcribes once."""

    def __init__(self, settings: Settings, folder: Path, progress: Progress) -> None:
        from exporter.runtime.reference import References  # late, since it imports torch

        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._executor = LocalExecutor(settings.workers)
        self._references = References("exporter validate ARTIFACT --reference FOLDER", progress)
        self._originals: dict[object, ModelRun] = {}
        self._failures: list[ExporterError] = []
        self._numbers = count()

    def judge(self, subjects: Sequence[Subject]) -> list[Report]:
        """Judge all artifacts; one that fails to run does not stop the others."""
        _warn_of_gates(subjects)
        checkpoints = [self._checkpoint(subject) for subject in subjects]
        self._warn(max(self._threads(subject) for subject in subjects))
        found = [self._found(*each) for each in zip(subjects, checkpoints, strict=True)]
        pairs = self._timed(subjects, checkpoints, found)
        if self._executor.workers > 1:  # all are timed before transcribing loads the machine
            pairs = iter(list(pairs))
        reports: list[Report] = []
        for pair in pairs:
            original = pair.original.transcripts
            with self._failing(pair.subject, pair.found):
                written = self._folder / f"predictions-{next(self._numbers)}"
                reports.append(_judged(pair, original, written, self._progress))
        if self._failures:
            raise self._failures[0]
        return reports

    @contextmanager
    def _failing(self, subject: Subject, found: Sequence[Check]) -> Iterator[None]:
        """Keep the error of an artifact that fails to run; a check that failed is its cause."""
        cause = next((check for check in found if check.passed is False), None)
        try:
            yield
        except (BuildError, IntegrityError, MachineError, ResourceError) as error:
            self._failures.append(_caused(error, type(error), subject, cause) if cause else error)
        except Exception as error:  # of any library, over files that are none of ours
            if cause is None:
                raise
            self._failures.append(_caused(error, IntegrityError, subject, cause))

    def _found(self, subject: Subject, checkpoint: Checkpoint) -> tuple[Check, ...]:
        """Check an artifact's small files and its plan; against another original there are none."""
        if checkpoint.sha256 != subject.manifest.checkpoint.sha256:
            return ()
        from exporter.validate.evidence import origin  # late, since it imports torch

        self._progress(f"{subject.name}: comparing configs and tokenizer", None)
        return origin.checks(subject.folder, subject.manifest, subject.recipe, checkpoint)

    def _checkpoint(self, subject: Subject) -> Checkpoint:
        """Open the checkpoint to compare with: the artifact's own, or that of the settings."""
        allowed = subject.recipe.allow_pickle
        if self._settings.reference:
            return self._references.open(self._settings.reference, allow_pickle=allowed)
        return self._references.of_artifact(subject.folder, subject.manifest, allow_pickle=allowed)

    def _timed(
        self,
        subjects: Sequence[Subject],
        checkpoints: Sequence[Checkpoint],
        checks: Sequence[tuple[Check, ...]],
    ) -> Iterator[Pair]:
        """Time each artifact, after its original if that is not yet timed."""
        for subject, checkpoint, found in zip(subjects, checkpoints, checks, strict=True):
            original = self._original(subject, checkpoint)
            reference = original.measurement
            with self._failing(subject, found):
                yield self._pair(subject, checkpoint, found, original, reference)

    def _pair(
        self,
        subject: Subject,
        checkpoint: Checkpoint,
        found: tuple[Check, ...],
        original: ModelRun,
        reference: Measurement,
    ) -> Pair:
        """Time an artifact; if it seems too slow, time it interleaved with the original."""
        artifact = self._artifact(subject)
        requests = [original.request, artifact.request]
        too_slow = partial(gate.too_slow, most=subject.recipe.gate.max_latency_ratio)
        in_turns = partial(time_interleaved, requests, artifact.name, self._progress)
        both = remeasure_if_slow(reference, artifact.measurement, too_slow, in_turns)
        return Pair(subject, checkpoint, found, original, artifact, *both)

    def _original(self, subject: Subject, checkpoint: Checkpoint) -> ModelRun:
        spec = self._spec(subject, checkpoint.folder, original=True)
        key = checkpoint.sha256, spec.decoding, spec.threads, subject.corpus.sha256, subject.timed
        if key not in self._originals:
            self._originals[key] = self._run(subject, spec, "original")
        return self._originals[key]

    def _artifact(self, subject: Subject) -> ModelRun:
        (subject.place / report.REPORT).unlink(missing_ok=True)  # stale even if this run crashes
        spec = self._spec(subject, subject.folder, original=False)
        name = f"{subject.manifest.recipe.name}/{subject.name}"
        return self._run(subject, spec, name)

    def _run(self, subject: Subject, spec: ModelSpec, name: str) -> ModelRun:
        return ModelRun(
            spec,
            name,
            subject.corpus,
            subject.timed,
            self._folder / f"transcripts-{next(self._numbers)}",
            self._executor,
            self._progress,
        )

    def _spec(self, subject: Subject, model: Path, *, original: bool) -> ModelSpec:
        return ModelSpec(
            model=model.resolve(),
            original=original,
            trust=subject.recipe.allow_pickle if original else self._settings.trust,
            threads=self._threads(subject),
            decoding=subject.recipe.decoding,
        )

    def _threads(self, subject: Subject) -> int:
        """Return the threads of both sides: as requested, as compiled in, or all cores."""
        compiled = subject.manifest.threads
        return self._settings.threads or compiled or hardware.describe().cores

    def _warn(self, threads: int) -> None:
        workers, cores = self._executor.workers, hardware.describe().cores
        if workers > 1 and workers * threads > cores:
            better = f"give --threads {max(1, cores // workers)}"
            message = "%d workers of %d threads share %d cores and slow each other: %s"
            _log.warning(message, workers, threads, cores, better)


def _warn_of_gates(subjects: Sequence[Subject]) -> None:
    """Warn of gates that cannot pass, before anything is measured.

    Raises:
        DataError: No clip has a word in its text.
    """
    distinct = {(s.corpus.sha256, s.recipe.gate): s for s in subjects}
    for subject in distinct.values():
        texts = (clip.text for clip in subject.corpus)
        words = np.array([len(text.split()) for text in texts], dtype=np.int64)
        if not words.any():
            msg = f"{subject.data.shown}: no clip has a word in its text, so there is no error rate"
            raise DataError(msg)
        for sentence in gate.obstacles(words, subject.recipe.gate):
            _log.warning("the gate cannot pass: %s", sentence)


def _judged(pair: Pair, original: Sequence[Path], written: Path, progress: Progress) -> Report:
    """Judge one artifact, and write its three files, the report last.

    `written` is a temporary path for the predictions until they are judged.
    """
    subject, checkpoint = pair.subject, pair.checkpoint
    transcripts = pair.artifact.transcripts
    progress(f"{pair.artifact.name}: comparing texts", None)
    store.require_same(subject.folder, subject.manifest)
    float32_bytes = _FLOAT32_BYTES * checkpoint.parameters
    equal = normaliser(_language(subject), subject.folder)
    predictions = RowFile(written)
    with predictions.writing() as write:
        case = compare(
            subject.corpus,
            subject.timed,
            ModelOutput(pair.reference, read_transcripts(original), float32_bytes),
            ModelOutput(pair.candidate, read_transcripts(transcripts), subject.manifest.size_bytes),
            equal.words,
            rows=predictions,
            write=write,
        )
    judged = _report(pair, case, equal, predictions.sha256)
    page = html_report.render(judged, case).encode()
    judged = judged.model_copy(update={"page_sha256": hashlib.sha256(page).hexdigest()})
    with predictions.path.open("rb") as stream:
        copy_atomic(stream, subject.place / report.PREDICTIONS)
    predictions.path.unlink()
    write_atomic(subject.place / report.PAGE, page)
    return report.write(subject.place, judged)


def _language(subject: Subject) -> str | None:
    """Return the language of the transcripts, as far as clips, recipe and model tell it."""
    from exporter.families import FAMILIES, read_configs

    (*languages,) = subject.corpus.languages
    spoken = languages[0] if len(languages) == 1 else None
    name = subject.manifest.family
    configs = read_configs(subject.folder, name)
    return FAMILIES[name].text_language(configs, subject.recipe.decoding, spoken)


def _caused(
    error: Exception, kind: type[ExporterError], subject: Subject, cause: Check
) -> ExporterError:
    """Return an error that begins with the check that tells its cause."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    caused = kind(f"{subject.folder}: {cause.sentence}\nThen: {reason}\n{cause.advice}".strip())
    caused.__cause__ = error
    return caused


def _against_another(subject: Subject, checkpoint: Checkpoint) -> str:
    """Return a sentence where the original is not the one that the artifact was built from."""
    origin, other = subject.manifest.checkpoint, checkpoint.sha256
    if other == origin.sha256:
        return ""
    return (
        f"Against another original: {checkpoint.name} (sha256 {other[:12]}), and it was built "
        f"from {readable_name(Path(origin.source).name)} (sha256 {origin.sha256[:12]}). "
    )


def _report(pair: Pair, case: Comparison, equal: Normaliser, predictions_sha256: str) -> Report:
    subject, checkpoint = pair.subject, pair.checkpoint
    manifest, recipe, data = subject.manifest, subject.recipe, subject.data
    judged = gate.judge(case, recipe.gate, len(manifest.files), pair.found)
    measured = case.candidate.measurement
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=judged.verdict,
        sentence=_against_another(subject, checkpoint) + judged.sentence,
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
            sha256=subject.corpus.sha256,
            clips=len(subject.corpus),
            audio_s=sum(case.durations_s.tolist()),
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
        reference_figures=gate.figures(case.reference, case.timed_audio_s),
        figures=gate.figures(case.candidate, case.timed_audio_s),
        wer_difference=judged.wer_difference,
        cer_difference=judged.cer_difference,
        latency_ratio=judged.latency_ratio,
        timed_clips=len(case.timed),
        clips_changed=len(case.changed),
        slices=gate.slices(case),
        worst=gate.worst(case),
        predictions_sha256=predictions_sha256,
    )
