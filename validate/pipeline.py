"""Validate sealed artifacts: bytes first, then data, then each model in two passes.

The timed pass runs alone, on a sample of the clips. The other transcribes all clips in one or more
workers; transcripts stay on disk until they are scored.
"""

from __future__ import annotations

import logging
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.artifact import report
from exporter.artifact.evidence import GroupEffect
from exporter.artifact.report import Check, Report
from exporter.artifact.store import find_built_for
from exporter.engine.executors import LocalExecutor
from exporter.errors import (
    BuildError,
    DataError,
    ExporterError,
    IntegrityError,
    MachineError,
    ResourceError,
)
from exporter.recipe import Decoding
from exporter.recognition.kept import file_of as kept_file
from exporter.system import hardware, worker
from exporter.system.accelerators import Device, require_device
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch
from exporter.validate.corpus.index import Corpora
from exporter.validate.corpus.languages import Spoken, spoken_in
from exporter.validate.evidence import blame
from exporter.validate.evidence.cases import CLIPS
from exporter.validate.evidence.results import Expected, ReferenceRequest
from exporter.validate.gate import judge as gate
from exporter.validate.gate.latency import Times, too_slow
from exporter.validate.measure.latency import Measurement, remeasure_if_slow, time_interleaved
from exporter.validate.measure.model import ModelSpec
from exporter.validate.measure.run import ModelRun
from exporter.validate.reporting import Pair, language_of, score, write_report
from exporter.validate.scoring.normaliser import normaliser, separated
from exporter.validate.scoring.statistics import LEVEL
from exporter.validate.scoring.units import UnitCounter
from exporter.validate.subjects import Settings, Subject, Until, open_subject

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint

_log = logging.getLogger(__name__)
_REFERENCE = "exporter.validate.evidence.reference:write"  # by name, since it imports torch


def validate(
    paths: Sequence[Path | str],
    *,
    data: str | None = None,
    clips: int | None = None,
    reference: str | None = None,
    threads: int | None = None,
    workers: int = 1,
    device: Device | None = None,
    trust: bool = False,
    until: Until = "certain",
    skip_unreadable: bool = False,
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
        device: Judge only the artifacts of folders that were built for this kind of device. Each
            artifact runs on the one that it was built for, and its original too.
        trust: Also validate artifacts whose native code was not built on this machine.
        until: "certain" hears clips look by look, in an order that the data's seed draws, until the
            verdict on words is certain; "all" hears all clips.
        skip_unreadable: Leave clips out that cannot be read; the report names them, and an artifact
            does not pass without more than 1 % of the clips.
        into: A folder for the reports: see `report.places`.
        progress: Called with the current activity and the fraction done, 0 to 1.

    Returns:
        A report per artifact, whatever its verdict.

    Raises:
        ExporterError: DataError, CheckpointError, IntegrityError, TrustError, MachineError,
            ResourceError or BuildError; the others of `paths` are judged before it is raised.
    """
    how = data, clips, reference, threads, workers, trust, device
    settings = Settings(*how, until=until, skip_unreadable=skip_unreadable)
    with validating(settings, progress) as judging:
        return judging(paths, into)


Judging = Callable[[Sequence[Path | str], Path | None], list[Report]]
"""Judges artifacts, and writes their reports beside them or into a folder."""


@contextmanager
def validating(settings: Settings, progress: Progress) -> Iterator[Judging]:
    """Yield what judges artifacts, as often as it is called: each original is measured once.

    Args:
        settings: Settings that override the recipes'.
        progress: Called with the current activity and the fraction done, 0 to 1.
    """
    with scratch() as place:
        corpora = Corpora(place, progress, skip_unreadable=settings.skip_unreadable)
        validation = cache(partial(_Validation, settings, place, progress))  # late: it needs torch

        def judging(paths: Sequence[Path | str], into: Path | None) -> list[Report]:
            folders = [
                folder for path in paths for folder in find_built_for(settings.device, Path(path))
            ]
            places = report.places(folders, into)
            for each in places:
                report.require_writable(each)
            subjects = [
                open_subject(folder, where, settings, corpora, progress)
                for folder, where in zip(folders, places, strict=True)
            ]
            subjects = [replace(subject, spoken=_spoken(subject)) for subject in subjects]
            _check_texts(subjects)
            return validation().judge(subjects)

        yield judging


def _spoken(subject: Subject) -> Spoken:
    """Return how the languages that the clips name are used, before anything is measured.

    Raises:
        DataError: The model lacks one of them, with its place in the data.
    """
    from exporter.families import FAMILIES, read_configs

    if subject.recipe.decoding.multilingual:
        return Spoken()  # the model finds the language of each window
    name = subject.manifest.family
    family, configs = FAMILIES[name], read_configs(subject.folder, name)
    return spoken_in(
        subject.reader.listed,
        partial(family.language_code, configs),
        subject.recipe.decoding.language,
        family.text_language(configs, Decoding(), None),
    )


def _check_texts(subjects: Sequence[Subject]) -> None:
    """Normalise every true text before anything is measured, also of clips that cannot be read.

    Raises:
        DataError: One cannot be normalised, with its place in the data.
    """
    checked: set[object] = set()
    for subject in subjects:
        equal = normaliser(language_of(subject), subject.folder)
        key = (id(subject.reader.listed), equal.stamp.model_dump_json())
        for clip in subject.reader.listed if key not in checked else ():
            try:
                equal.apply(clip.text)
            except DataError as error:
                msg = f"{clip.where or clip.id}: {error}"
                raise DataError(msg) from error
        checked.add(key)


class _Validation:
    """The models of one run; each original is timed and transcribes once."""

    def __init__(self, settings: Settings, folder: Path, progress: Progress) -> None:
        from exporter.recognition.reference import References  # late, since it imports torch

        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._executor = LocalExecutor(settings.workers)
        self._references = References("exporter validate ARTIFACT --reference FOLDER", progress)
        self._originals: dict[object, ModelRun] = {}
        self._failures: list[ExporterError] = []  # of the artifacts that are judged now
        self._numbers = count()

    def judge(self, subjects: Sequence[Subject]) -> list[Report]:
        """Judge all artifacts; one that fails to run does not stop the others."""
        self._failures.clear()
        _warn_of_gates(subjects)
        for note in dict.fromkeys(note for subject in subjects for note in subject.spoken.notes):
            _log.warning("%s", note)
        checkpoints = [self._checkpoint(subject) for subject in subjects]
        self._warn(max(self._threads(subject) for subject in subjects))
        found = [self._found(*each) for each in zip(subjects, checkpoints, strict=True)]
        pairs = self._timed(subjects, checkpoints, found)
        if self._executor.workers > 1:  # all are timed before transcribing loads the machine
            pairs = iter(list(pairs))
        reports = [report for pair in pairs if (report := self._judged(pair)) is not None]
        if self._failures:
            raise self._failures[0]
        return reports

    def _judged(self, pair: Pair) -> Report | None:
        """Judge one artifact, look by look if there are several; None if it fails to run."""
        subject = pair.subject
        for look in range(len(subject.reader.sizes)):
            corpus = subject.reader.at(look)
            original = pair.original.transcripts(corpus)
            with self._failing(subject, pair.found):
                written = self._folder / f"predictions-{next(self._numbers)}"
                heard = replace(pair, subject=replace(subject, corpus=corpus), made=look + 1)
                scored = score(heard, original, written, self._progress)
                if not scored.settled:
                    scored.predictions.path.unlink()
                    continue
                effects = partial(self._effects, pair) if self._settings.blame else None
                return write_report(scored, effects)
            return None
        raise AssertionError

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
        allowed, language = subject.recipe.allow_pickle, subject.recipe.decoding.language
        if self._settings.reference:
            return self._references.open(
                self._settings.reference, allow_pickle=allowed, language=language
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
            if not self._has_device(subject):
                continue
            original = self._original(subject, checkpoint)
            reference = original.measurement
            with self._failing(subject, found):
                yield self._pair(subject, checkpoint, found, original, reference)

    def _has_device(self, subject: Subject) -> bool:
        """Keep the error of an artifact that needs a device that this machine lacks."""
        try:
            _device(subject)
        except MachineError as error:
            self._failures.append(error)
            return False
        return True

    def _pair(
        self,
        subject: Subject,
        checkpoint: Checkpoint,
        found: tuple[Check, ...],
        original: ModelRun,
        reference: Measurement,
    ) -> Pair:
        """Time an artifact; if it seems too slow, time it interleaved with the original."""
        expected = self._expected(subject, checkpoint)
        artifact = self._artifact(subject, expected)
        candidate = artifact.measurement
        if expected is not None:  # its arrays are as large as a small model
            shutil.rmtree(expected.folder)
        requests = [original.request, artifact.request]
        durations_s = subject.corpus.durations_s[list(subject.timed)]
        most = subject.recipe.gate.max_latency_ratio

        def slow(*sides: Measurement) -> bool:
            return too_slow(Times(durations_s, *(np.array(one.seconds) for one in sides)), most)

        in_turns = partial(time_interleaved, requests, artifact.name, self._progress)
        both = remeasure_if_slow(reference, candidate, slow, in_turns)
        return Pair(subject, checkpoint, found, original, artifact, *both)

    def _original(self, subject: Subject, checkpoint: Checkpoint) -> ModelRun:
        spec = self._spec(subject, checkpoint.folder, original=True)
        how = spec.decoding, tuple(sorted(spec.languages.items())), spec.threads, spec.device
        # Of later looks, other readers have other clips, or another order.
        later = id(subject.reader) if len(subject.reader.sizes) > 1 else None
        key = checkpoint.sha256, how, subject.corpus.sha256, subject.timed, later
        if key not in self._originals:
            plain = spec.model_dump(
                mode="json", exclude={"model", "original", "trust", "threads", "languages"}
            )
            family, name = subject.manifest.family, checkpoint.name
            options = spec.decoding.model_dump(mode="json", exclude_defaults=True)
            told = ", ".join(f"{option} {value}" for option, value in options.items())
            what = f"{name} ({told})" if told else name
            kept = kept_file(checkpoint.sha256, family, plain, what)
            self._originals[key] = self._run(subject, spec, "original", kept=kept)
        return self._originals[key]

    def _expected(self, subject: Subject, checkpoint: Checkpoint) -> Expected | None:
        """Let the original decode given texts, as it is and with the artifact's plan.

        Another original than the artifact's own says nothing about its weights.
        """
        known = checkpoint.sha256 == subject.manifest.checkpoint.sha256
        if not (known and self._settings.evidence):
            return None
        output = self._folder / f"expected-{next(self._numbers)}"
        output.mkdir()
        spec = self._on_cpu(subject, checkpoint)
        clips = [subject.corpus[place] for place in subject.corpus.sample(CLIPS, subject.data.seed)]
        request = ReferenceRequest(
            original=spec,
            artifact=subject.folder.resolve(),
            clips=tuple(clip.path for clip in clips),
            names=tuple(clip.id for clip in clips),
            output=output,
        )
        name = f"{subject.manifest.recipe.name}/{subject.name}"

        def prefixed(doing: str, done: float | None) -> None:
            self._progress(f"original of {name}: {doing}", done)

        step, plain = _REFERENCE, request.model_dump(mode="json")
        answer = worker.run(step, plain, prefixed, what=name, threads=spec.threads)
        return Expected.model_validate(answer["expected"])

    def _effects(self, pair: Pair) -> tuple[GroupEffect, ...]:
        """Measure what each group of an artifact's plan does to its original."""
        subject = pair.subject
        spec = self._on_cpu(subject, pair.checkpoint)
        chosen = subject.corpus.sample(blame.CLIPS, subject.data.seed)
        clips = [subject.corpus[place].path for place in chosen]
        return blame.effects_of(spec, subject.manifest, clips, pair.artifact.name, self._progress)

    def _artifact(self, subject: Subject, expected: Expected | None) -> ModelRun:
        (subject.place / report.REPORT).unlink(missing_ok=True)  # stale even if this run crashes
        spec = self._spec(subject, subject.folder, original=False)
        name = f"{subject.manifest.recipe.name}/{subject.name}"
        return self._run(subject, spec, name, expected=expected)

    def _run(
        self,
        subject: Subject,
        spec: ModelSpec,
        name: str,
        *,
        expected: Expected | None = None,
        kept: Path | None = None,
    ) -> ModelRun:
        return ModelRun(
            spec,
            name,
            subject.corpus,
            subject.timed,
            self._folder / f"transcripts-{next(self._numbers)}",
            self._executor,
            self._progress,
            expected,
            kept,
        )

    def _on_cpu(self, subject: Subject, checkpoint: Checkpoint) -> ModelSpec:
        """Return the original of a comparison of numbers: that of float32 on a CPU."""
        spec = self._spec(subject, checkpoint.folder, original=True)
        return spec.model_copy(update={"device": "cpu"})

    def _spec(self, subject: Subject, model: Path, *, original: bool) -> ModelSpec:
        return ModelSpec(
            model=model.resolve(),
            original=original,
            trust=subject.recipe.allow_pickle if original else self._settings.trust,
            threads=self._threads(subject),
            decoding=subject.recipe.decoding,
            languages=dict(subject.spoken.codes),
            device=_device(subject),
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


def _device(subject: Subject) -> Device:
    """Return the device that an artifact is built for, and its original is compared on.

    Raises:
        MachineError: This machine lacks it.
    """
    needs = subject.manifest.needs
    gpu = needs.gpu.as_needs() if needs.gpu else None
    return require_device(needs.device, gpu, str(subject.folder))


def _warn_of_gates(subjects: Sequence[Subject]) -> None:
    """Warn of gates that cannot pass, before anything is measured.

    Raises:
        DataError: No clip has a word in its text.
    """
    distinct = {(s.corpus.sha256, s.recipe.gate): s for s in subjects}
    for subject in distinct.values():
        looks = subject.looks
        counted, counter = array("q"), UnitCounter()
        for clip in subject.corpus if looks is None else subject.reader.listed:
            counted.append(len(separated(clip.text).split()))
            counter.add(clip.speaker, clip.recording)
        words = np.array(counted, dtype=np.int64)
        if not words.any():
            msg = f"{subject.data.shown}: no clip has a word in its text, so there is no error rate"
            raise DataError(msg)
        units, recordings = counter.units, len(words)
        if looks is None:  # else the copies among the clips are not known yet
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
