"""Judge sealed artifacts: each model is timed alone, and transcribes the clips in shards.

The timed pass runs on a sample of the clips. Transcripts stay on disk until they are scored.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from exporter.artifact import report
from exporter.artifact.evidence import GroupEffect
from exporter.artifact.report import Check, Report
from exporter.engine import environment
from exporter.engine.executors import Executor
from exporter.engine.part_store import PartStore
from exporter.errors import (
    BuildError,
    DataError,
    ExporterError,
    IntegrityError,
    MachineError,
    ResourceError,
)
from exporter.recognition.kept import file_of as kept_file
from exporter.system import hardware
from exporter.system.accelerators import DEVICES, Device, require_device
from exporter.system.progress import Progress
from exporter.validate.evidence import blame
from exporter.validate.evidence.cases import CLIPS
from exporter.validate.evidence.results import Expected, ReferenceRequest
from exporter.validate.gate import judge as gate
from exporter.validate.measure.latency import Measurement, request_of
from exporter.validate.measure.model import ModelSpec
from exporter.validate.measure.pair import PairRequest, measure_pair
from exporter.validate.measure.run import ModelRun
from exporter.validate.measure.transcripts import ClipResult
from exporter.validate.reporting import Pair, Scored, score, write_report
from exporter.validate.scoring.normaliser import separated
from exporter.validate.scoring.statistics import LEVEL
from exporter.validate.scoring.units import UnitCounter
from exporter.validate.shards.cut import windows_of
from exporter.validate.shards.hearing import Hearing, Listener
from exporter.validate.subjects import Settings, Subject

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint

_log = logging.getLogger(__name__)
# An original that runs: Python with torch and transformers, and for each parameter its float32, and
# as much again while it is read.
_PROCESS_BYTES, _BYTES_A_PARAMETER = 600 << 20, 8


class Validation:
    """The models of one run; each original is timed and transcribes once."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        executor: Executor,
        store: PartStore,
        progress: Progress,
    ) -> None:
        """Open nothing yet.

        Args:
            settings: Settings that override the recipes'.
            folder: A folder for temporary files.
            executor: What runs the transcription.
            store: Where parts are found and kept.
            progress: Called with the current activity and the fraction done, 0 to 1.
        """
        from exporter.recognition.reference import References  # late, since it imports torch

        self.settings, self.store, self.executor = settings, store, executor
        self.progress = progress
        self.failures: list[ExporterError] = []  # of the artifacts that are judged now
        self._folder = folder
        self._references = References("exporter validate ARTIFACT --reference FOLDER", progress)
        self._originals: dict[object, Hearing] = {}
        self._runs: dict[int, ModelRun] = {}
        self._numbers = count()

    def judge(self, subjects: Sequence[Subject]) -> list[Report]:
        """Judge all artifacts on clips that are read here."""
        self.failures.clear()
        warn_of_gates(subjects)
        for note in dict.fromkeys(note for subject in subjects for note in subject.spoken.notes):
            _log.warning("%s", note)
        checkpoints = [self.checkpoint(subject) for subject in subjects]
        self._warn(max(self._threads(subject) for subject in subjects))
        found = [self.found(*each) for each in zip(subjects, checkpoints, strict=True)]
        pairs = self._timed(subjects, checkpoints, found)
        if self.executor.workers > 1:  # all are timed before transcribing loads the machine
            pairs = iter(list(pairs))
        reports = [report for pair in pairs if (report := self._judged(pair)) is not None]
        if self.failures:
            raise self.failures[0]
        return reports

    def _judged(self, pair: Pair) -> Report | None:
        """Judge one artifact, look by look if there are several; None if it fails to run."""
        reader = pair.subject.reader
        for look in range(len(reader.sizes)):
            reader.at(look)
            original = pair.original.transcripts(look)
            with self.failing(pair.subject, pair.found):
                scored = self.scored(pair.at(look), original, pair.artifact.transcripts(look))
                if not scored.settled:
                    scored.predictions.path.unlink()
                    continue
                return self.report(scored)
            return None
        raise AssertionError

    def scored(
        self, pair: Pair, original: Iterable[ClipResult], artifact: Iterable[ClipResult]
    ) -> Scored:
        """Score an artifact beside its original; the predictions are in a temporary file."""
        written = self._folder / f"predictions-{next(self._numbers)}"
        return score(pair, original, artifact, written, self.progress)

    def report(self, scored: Scored) -> Report:
        """Write the report of an artifact."""
        effects = partial(self._effects, scored.pair) if self.settings.blame else None
        return write_report(scored, effects)

    @contextmanager
    def failing(self, subject: Subject, found: Sequence[Check]) -> Iterator[None]:
        """Keep the error of an artifact that fails to run; a check that failed is its cause."""
        cause = next((check for check in found if check.passed is False), None)
        try:
            yield
        except (BuildError, IntegrityError, MachineError, ResourceError) as error:
            self.failures.append(_caused(error, type(error), subject, cause) if cause else error)
        except Exception as error:  # of any library, over files that are none of ours
            if cause is None:
                raise
            self.failures.append(_caused(error, IntegrityError, subject, cause))

    def found(self, subject: Subject, checkpoint: Checkpoint) -> tuple[Check, ...]:
        """Check an artifact's small files and its plan; against another original there are none."""
        if checkpoint.sha256 != subject.manifest.checkpoint.sha256:
            return ()
        from exporter.validate.evidence import origin  # late, since it imports torch

        self.progress(f"{subject.name}: comparing configs and tokenizer", None)
        return origin.checks(subject.folder, subject.manifest, subject.recipe, checkpoint)

    def checkpoint(self, subject: Subject) -> Checkpoint:
        """Open the checkpoint to compare with: the artifact's own, or that of the settings."""
        allowed, language = subject.recipe.allow_pickle, subject.recipe.decoding.language
        if self.settings.reference:
            return self._references.open(
                self.settings.reference, allow_pickle=allowed, language=language
            )
        return self._references.of_artifact(
            subject.folder, subject.manifest, allow_pickle=allowed, language=language
        )

    def _timed(
        self,
        subjects: Sequence[Subject],
        checkpoints: Sequence[Checkpoint],
        checks: Sequence[tuple[Check, ...]],
    ) -> Iterator[Pair]:
        """Time each artifact, after its original if that is not yet timed."""
        for subject, checkpoint, found in zip(subjects, checkpoints, checks, strict=True):
            if not self.has_device(subject):
                continue
            original = self.original_run(subject, self.original(subject, checkpoint))
            _ = original.measurement  # its errors stop all
            with self.failing(subject, found):
                artifact = self.artifact(subject)
                yield self.pair(subject, checkpoint, found, original, artifact)

    def has_device(self, subject: Subject) -> bool:
        """Keep the error of an artifact that needs a device that this machine lacks."""
        if self.settings.on != "local" and subject.manifest.needs.device in DEVICES:
            return True  # nodes of the cluster have it or not
        try:
            _require_device(subject)
        except MachineError as error:
            self.failures.append(error)
            return False
        return True

    def pair(
        self,
        subject: Subject,
        checkpoint: Checkpoint,
        found: tuple[Check, ...],
        original: ModelRun,
        hearing: Hearing,
    ) -> Pair:
        """Measure an artifact here, after its original."""
        (subject.place / report.REPORT).unlink(missing_ok=True)  # stale even if this run crashes
        reference = original.measurement
        request = self.pair_request(subject, checkpoint, original, hearing)
        runs: list[ModelRun] = []

        def measure(expected: Expected | None) -> Measurement:
            runs.append(self.run(subject, hearing, expected))
            return runs[0].measurement

        output = self._folder / f"expected-{next(self._numbers)}"
        measured = measure_pair(request, reference, measure, output, self.progress)
        return Pair(subject, checkpoint, found, original, runs[0], measured)

    def pair_request(
        self, subject: Subject, checkpoint: Checkpoint, original: ModelRun, hearing: Hearing
    ) -> PairRequest:
        """Return both measurements, with the files of clips on this machine.

        Another original than the artifact's own says nothing about its weights and steps.
        """
        steps, corpus = None, subject.corpus
        known = checkpoint.sha256 == subject.manifest.checkpoint.sha256
        if known and self.settings.evidence:
            clips = [corpus[place] for place in corpus.sample(CLIPS, subject.data.seed)]
            steps = ReferenceRequest(
                original=self._on_cpu(subject, checkpoint),
                artifact=subject.folder.resolve(),
                clips=tuple(clip.path for clip in clips),
                names=tuple(clip.id for clip in clips),
            )
        return PairRequest(
            name=hearing.listener.name,
            original=original.request,
            artifact=request_of(hearing.listener.spec, corpus, subject.timed),
            steps=steps,
            durations_s=tuple(corpus.durations_s[list(subject.timed)].tolist()),
            max_latency_ratio=subject.recipe.gate.max_latency_ratio,
        )

    def original(self, subject: Subject, checkpoint: Checkpoint) -> Hearing:
        """Return what an original hears, the same for all artifacts with the same clips."""
        spec = self._spec(subject, checkpoint.folder, original=True)
        how = spec.decoding, tuple(sorted(spec.languages.items())), spec.threads, spec.device
        key = checkpoint.sha256, how, subject.most_timed, id(subject.reader)
        if key not in self._originals:
            plain = spec.model_dump(
                mode="json", exclude={"model", "original", "trust", "threads", "languages"}
            )
            family, name = subject.manifest.family, checkpoint.name
            options = spec.decoding.model_dump(mode="json", exclude_defaults=True)
            told = ", ".join(f"{option} {value}" for option, value in options.items())
            what = f"{name} ({told})" if told else name
            here = subject.reader.here
            listener = Listener(
                spec=spec,
                sha256=checkpoint.sha256,
                name="original",
                windows=windows_of(checkpoint.parameters, original=True),
                kept=kept_file(checkpoint.sha256, family, plain, what) if here else None,
                memory_bytes=_PROCESS_BYTES + _BYTES_A_PARAMETER * checkpoint.parameters,
            )
            self._originals[key] = self._hearing(subject, listener)
        return self._originals[key]

    def artifact(self, subject: Subject) -> Hearing:
        """Return what an artifact hears."""
        manifest = subject.manifest
        predicted = manifest.build.predicted
        listener = Listener(
            spec=self._spec(subject, subject.folder, original=False),
            sha256=manifest.digest,
            name=f"{manifest.recipe.name}/{subject.name}",
            windows=windows_of(manifest.checkpoint.parameters, original=False),
            memory_bytes=predicted.reload_rss_bytes if predicted else 0,
        )
        return self._hearing(subject, listener)

    def _hearing(self, subject: Subject, listener: Listener) -> Hearing:
        here = environment.describe() if self.settings.on == "local" else None
        # Only where nobody else looks for the parts may they be smaller, for all workers.
        alone = self.settings.store is None and not self.settings.is_spread
        least = self.executor.workers if alone else 1
        return Hearing(listener, subject.reader, self.store, here, least)

    def original_run(self, subject: Subject, hearing: Hearing) -> ModelRun:
        """Return what measures an original, once."""
        if id(hearing) not in self._runs:
            self._runs[id(hearing)] = self.run(subject, hearing)
        return self._runs[id(hearing)]

    def run(self, subject: Subject, hearing: Hearing, expected: Expected | None = None) -> ModelRun:
        """Return what measures a model."""
        return ModelRun(
            hearing,
            request_of(hearing.listener.spec, subject.corpus, subject.timed),
            self._folder / f"transcripts-{next(self._numbers)}",
            self.executor,
            self.progress,
            expected,
        )

    def _effects(self, pair: Pair) -> tuple[GroupEffect, ...]:
        """Measure what each group of an artifact's plan does to its original."""
        subject = pair.subject
        spec = self._on_cpu(subject, pair.checkpoint)
        chosen = subject.corpus.sample(blame.CLIPS, subject.data.seed)
        clips = [subject.corpus[place].path for place in chosen]
        return blame.effects_of(spec, subject.manifest, clips, pair.artifact.name, self.progress)

    def _on_cpu(self, subject: Subject, checkpoint: Checkpoint) -> ModelSpec:
        """Return the original of a comparison of numbers: that of float32 on a CPU."""
        spec = self._spec(subject, checkpoint.folder, original=True)
        return spec.model_copy(update={"device": "cpu"})

    def _spec(self, subject: Subject, model: Path, *, original: bool) -> ModelSpec:
        return ModelSpec(
            model=model.resolve(),
            original=original,
            trust=subject.recipe.allow_pickle if original else self.settings.trust,
            threads=self._threads(subject),
            decoding=subject.recipe.decoding,
            languages=dict(subject.spoken.codes),
            device=cast("Device", subject.manifest.needs.device),
        )

    def _threads(self, subject: Subject) -> int:
        """Return the threads of both sides: as requested, as compiled in, or all cores."""
        compiled = subject.manifest.threads
        return self.settings.threads or compiled or hardware.describe().cores

    def _warn(self, threads: int) -> None:
        workers, cores = self.executor.workers, hardware.describe().cores
        if workers > 1 and workers * threads > cores:
            better = f"give --threads {max(1, cores // workers)}"
            message = "%d workers of %d threads share %d cores and slow each other: %s"
            _log.warning(message, workers, threads, cores, better)


def _require_device(subject: Subject) -> None:
    """Raise MachineError if this machine lacks the device that an artifact is built for."""
    needs = subject.manifest.needs
    gpu = needs.gpu.as_needs() if needs.gpu else None
    require_device(needs.device, gpu, str(subject.folder))


def warn_of_gates(subjects: Sequence[Subject]) -> None:
    """Warn of gates that cannot pass, before anything is measured.

    Raises:
        DataError: No clip has a word in its text.
    """
    distinct = {(id(s.reader), s.recipe.gate): s for s in subjects}
    for subject in distinct.values():
        looks, known = subject.looks, subject.looks is None and subject.reader.here
        counted, counter = array("q"), UnitCounter()
        for clip in subject.corpus if known else subject.reader.listed:
            counted.append(len(separated(clip.text).split()))
            counter.add(clip.speaker, clip.recording)
        words = np.array(counted, dtype=np.int64)
        if not words.any():
            msg = f"{subject.data.shown}: no clip has a word in its text, so there is no error rate"
            raise DataError(msg)
        units, recordings = counter.units, len(words)
        if known:  # else the copies among the clips are not known yet
            sounds = subject.corpus.sounds
            units, recordings = units.with_copies(sounds), len(np.unique(sounds))
        level = looks.level if looks else LEVEL
        for sentence in gate.obstacles(words, subject.recipe.gate, units, recordings, level):
            _log.warning("the gate cannot pass: %s", sentence)


def _caused(
    error: Exception, kind: type[ExporterError], subject: Subject, cause: Check
) -> ExporterError:
    """Return an error that begins with the check that tells its cause."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    caused = kind(f"{subject.folder}: {cause.sentence}\nThen: {reason}\n{cause.advice}".strip())
    caused.__cause__ = error
    return caused
