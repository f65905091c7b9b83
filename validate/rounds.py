"""Rounds: the shards of a look are heard on any machines, then all artifacts are scored with it.

This machine opens no audio but that of the clips it times. What was heard is known from the parts
in the store alone, so it does not matter who heard it, in which order, or how often.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, overload

from exporter.artifact.report import REPORT, Check, Report
from exporter.engine import environment
from exporter.engine.executors import Task
from exporter.engine.on_ray import RayExecutor
from exporter.errors import DataError, ExporterError
from exporter.validate.corpus.index import clip_of
from exporter.validate.evidence import blame
from exporter.validate.evidence.cases import CLIPS
from exporter.validate.measure.latency import UNMEASURED
from exporter.validate.measure.pair import MeasuredPair
from exporter.validate.measure.run import ModelRun
from exporter.validate.reporting import Pair, Scored
from exporter.validate.shards.cut import windows_in
from exporter.validate.shards.hearing import Hearing, Shard
from exporter.validate.shards.parts import hash_of
from exporter.validate.shards.reading import PartsReading
from exporter.validate.shards.timing import timing_task
from exporter.validate.subjects import Subject
from exporter.validate.validation import Validation, warn_of_gates

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint

_log = logging.getLogger(__name__)
_Job = tuple[Hearing, Shard]


@dataclass(frozen=True)
class PlannedModel:
    """What one model hears at a look, and how much of it is in the store."""

    name: str
    shards: int
    done: int
    memory_bytes: int


@dataclass(frozen=True)
class PlannedLook:
    """What is heard at a look, of one artifact's clips: those that it adds, and their windows."""

    clips: int
    windows: int
    models: tuple[PlannedModel, ...]


@dataclass(frozen=True)
class PartsHeard:
    """What one part of the work has heard.

    Attributes:
        clips: How many clips are heard up to the look, of `listed` ones.
        listed: All clips.
        heard: Shards that were heard now.
        done: Shards of the look that are in the store.
        planned: Shards of the look.
        certain: Whether nothing is left to hear: every verdict on words is certain, or all clips
            are heard.
    """

    clips: int
    listed: int
    heard: int
    done: int
    planned: int
    certain: bool


@dataclass
class _Candidate:
    """An artifact to judge, beside its original."""

    subject: Subject
    checkpoint: Checkpoint
    found: tuple[Check, ...]
    original: Hearing
    artifact: Hearing
    pair: Pair | None = None


class Rounds:
    """Judges artifacts by what is in a store."""

    def __init__(self, validation: Validation, subjects: Sequence[Subject]) -> None:
        """Open the originals.

        Args:
            validation: The models of the run.
            subjects: The artifacts, whose clips are `PartsReading`.
        """
        self._validation, self._settings = validation, validation.settings
        validation.failures.clear()
        warn_of_gates(subjects)
        self._candidates = [
            self._candidate(subject) for subject in subjects if validation.has_device(subject)
        ]
        self._lost: dict[int, ExporterError] = {}  # by hearing, of models that fail to run

    def judge(self) -> list[Report]:
        """Hear what is missing, or ask for it when merging, and judge all artifacts.

        Raises:
            DataError: A shard has no part, or both sides heard other audio.
            ExporterError: As `validate` raises it.
        """
        if not self._candidates:
            raise self._validation.failures[0]
        reports: dict[int, Report] = {}
        left = dict(enumerate(self._candidates))
        self._use(self._environment())
        if self._settings.merge:
            self._require_parts()
        for look in count():
            if not left:
                break
            self._hear(look, [*left.values()])
            for place, candidate in list(left.items()):
                report = self._judged(candidate, look)
                if report is not None:
                    reports[place] = report
                if report is not None or self._error(candidate) is not None:
                    del left[place]
        if self._validation.failures:
            raise self._validation.failures[0]
        return [reports[place] for place in sorted(reports)]

    def hear(self) -> PartsHeard:
        """Hear this part's shards of the first look whose verdict is not certain.

        Raises:
            ExporterError: As `validate` raises it.
        """
        assert self._settings.part is not None
        number, parts = self._settings.part
        self._require_devices()
        self._use(environment.describe())
        _warn_of_others(_distinct(self._candidates))
        left, heard = list(self._candidates), 0
        for look in count():
            planned = self._jobs(look, left)
            missing = {shard.sha256 for _, shard in self._missing(look, left)}
            ours = [job for job in planned[number - 1 :: parts] if job[1].sha256 in missing]
            for error in self._run(ours):
                raise error
            heard += len(ours)
            if len(ours) < len(missing):  # others may have heard some meanwhile
                missing = {shard.sha256 for _, shard in self._missing(look, left)}
            else:
                missing = set()
            done = len(planned) - len(missing)
            told = self._heard(look, left, heard, done, len(planned))
            if done < len(planned):
                return told
            left = [each for each in left if not self._settled(each, look)]
            if not left:
                return replace(told, certain=True)
        raise AssertionError

    def planned(self) -> list[list[PlannedLook]]:
        """Return for each artifact what is heard at each look, without hearing it."""
        self._require_devices()
        self._use(self._environment())
        return [
            [self._planned(candidate, look) for look in range(len(candidate.subject.reader.sizes))]
            for candidate in self._candidates
        ]

    def _candidate(self, subject: Subject) -> _Candidate:
        validation = self._validation
        checkpoint = validation.checkpoint(subject)
        original = validation.original(subject, checkpoint)
        found = validation.found(subject, checkpoint)
        return _Candidate(subject, checkpoint, found, original, validation.artifact(subject))

    def _require_devices(self) -> None:
        """Raise the error of an artifact that needs a device that this machine lacks."""
        for error in self._validation.failures:
            raise error

    def _use(self, known: dict[str, object]) -> None:
        """Set the kind of machine whose parts are used, and that tells what was read."""
        for candidate in self._candidates:
            candidate.original.environment = candidate.artifact.environment = known
            reading = candidate.subject.reader
            assert isinstance(reading, PartsReading)
            reading.heard_by(candidate.original)

    def _environment(self) -> dict[str, object]:
        if not self._settings.merge:
            return self._validation.executor.environment
        return chosen_environment(_distinct(self._candidates))

    def _require_parts(self) -> None:
        """Raise DataError if an artifact lacks parts, before any of them is measured."""
        left = self._candidates
        for look in count():
            if not left:
                break
            self._hear(look, left)
            left = [each for each in left if not self._settled(each, look)]

    def _hear(self, look: int, left: Sequence[_Candidate]) -> None:
        """Hear the shards of a look that are missing; when merging, none may be."""
        missing = self._missing(look, left)
        if not self._settings.merge:
            for error in self._run(missing):
                if isinstance(error, DataError):  # of a clip, so no artifact can be judged
                    raise error
        elif missing:
            raise _lacking(left[0], look, len(missing), len(self._jobs(look, left)))

    def _run(self, jobs: Sequence[_Job]) -> Iterator[ExporterError]:
        """Hear shards; keep and yield the error of each model that fails to run."""
        validation = self._validation
        for place, outcome in validation.executor.map(_Tasks(jobs), validation.progress):
            if isinstance(outcome, ExporterError):
                self._lost.setdefault(id(jobs[place][0]), outcome)
                yield outcome

    def _judged(self, candidate: _Candidate, look: int) -> Report | None:
        """Judge one artifact; None if it needs more clips, or fails to run."""
        validation = self._validation
        if (error := self._error(candidate)) is not None:
            with validation.failing(candidate.subject, candidate.found):
                raise error
            return None
        with validation.failing(candidate.subject, candidate.found):
            if candidate.pair is None:
                candidate.artifact.require_same()
                candidate.pair = self._timed(candidate)
            scored = self._scored(candidate, candidate.pair, look)
            if scored.settled:
                return validation.report(scored)
            scored.predictions.path.unlink()
            return None
        self._lost[id(candidate.artifact)] = validation.failures[-1]
        return None

    def _timed(self, candidate: _Candidate) -> Pair:
        """Measure both models on clips of the first look, here or on a node kept for it."""
        subject, validation = candidate.subject, self._validation
        corpus, seed = subject.corpus, subject.data.seed
        assert isinstance(subject.reader, PartsReading)
        some = (*corpus.typical(), *corpus.sample(CLIPS, seed), *corpus.sample(blame.CLIPS, seed))
        places = {*subject.timed, *some}
        subject.reader.stage(places)
        original = validation.original_run(subject, candidate.original)
        known = candidate.checkpoint, candidate.found
        if "=" in self._settings.timing:
            pair = self._timed_elsewhere(candidate, original, places)
        else:
            pair = validation.pair(subject, *known, original, candidate.artifact)
        kind = candidate.original.environment or {}
        heard_on = kind if kind != environment.describe() else {}
        return replace(pair, timed=self._settings.timing != "none", heard_on=heard_on)

    def _timed_elsewhere(
        self, candidate: _Candidate, original: ModelRun, places: Iterable[int]
    ) -> Pair:
        """Measure both models on the node that has the label."""
        subject, validation = candidate.subject, self._validation
        (subject.place / REPORT).unlink(missing_ok=True)
        how = subject, candidate.checkpoint, original, candidate.artifact
        corpus = subject.corpus
        clips = {corpus[place].path: clip_of(corpus.index[place]) for place in places}
        task = timing_task(validation.pair_request(*how), clips)
        label, _, value = self._settings.timing.partition("=")
        executor = validation.executor
        assert isinstance(executor, RayExecutor)
        answer = executor.alone({label: value}, task)
        measured = MeasuredPair.model_validate(answer["pair"])
        artifact = validation.run(subject, candidate.artifact)
        return Pair(subject, candidate.checkpoint, candidate.found, original, artifact, measured)

    def _settled(self, candidate: _Candidate, look: int) -> bool:
        """Return whether no more clips need to be heard; nothing is measured."""
        subject = replace(candidate.subject, most_timed=0)
        original = self._validation.run(subject, candidate.original)
        artifact = self._validation.run(subject, candidate.artifact)
        measured = MeasuredPair(reference=UNMEASURED, candidate=UNMEASURED, expected=None)
        known = candidate.checkpoint, candidate.found
        pair = Pair(subject, *known, original, artifact, measured)
        scored = self._scored(candidate, pair, look)
        scored.predictions.path.unlink()
        return scored.settled

    def _scored(self, candidate: _Candidate, pair: Pair, look: int) -> Scored:
        original, artifact = candidate.original.results(look), candidate.artifact.results(look)
        return self._validation.scored(pair.at(look), original, artifact)

    def _error(self, candidate: _Candidate) -> ExporterError | None:
        sides = candidate.original, candidate.artifact
        return next((self._lost[id(each)] for each in sides if id(each) in self._lost), None)

    def _jobs(self, look: int, left: Iterable[_Candidate]) -> list[_Job]:
        """Return all shards of a look, in an order that is the same on every machine."""
        return _once((each, shard) for each in _distinct(left) for shard in each.shards(look))

    def _missing(self, look: int, left: Iterable[_Candidate]) -> list[_Job]:
        hearings = [each for each in _distinct(left) if id(each) not in self._lost]
        return _once((each, shard) for each in hearings for shard in each.missing(look))

    def _heard(
        self, look: int, left: Sequence[_Candidate], heard: int, done: int, planned: int
    ) -> PartsHeard:
        reading = left[0].subject.reader
        return PartsHeard(reading.sizes[look], len(reading.listed), heard, done, planned, False)

    def _planned(self, candidate: _Candidate, look: int) -> PlannedLook:
        reading = candidate.subject.reader
        numbers = reading.numbers(look)
        models = (
            PlannedModel(
                each.listener.name,
                len(each.shards(look)),
                len(each.shards(look)) - len(each.missing(look)),
                each.listener.memory_bytes,
            )
            for each in (candidate.original, candidate.artifact)
        )
        return PlannedLook(len(numbers), windows_in(reading.clips(numbers)), tuple(models))


def chosen_environment(hearings: Sequence[Hearing]) -> dict[str, object]:
    """Return the kind of machine that has heard the whole first look with every model.

    If several have, it is this machine's; also if another one has, and this one has heard a part.

    Raises:
        DataError: None has, or several have, and this machine is of none of them.
    """
    shards = [each for hearing in hearings for each in hearing.environments(0)]
    complete = set.intersection(*shards)
    here = environment.describe()
    store, kinds = hearings[0].store, sorted(set.union(*shards))
    # Where this kind is heard in part and another one whole, what is missing is told.
    if not kinds or hash_of(here) in (kinds if complete else complete):
        return here
    if len(complete) == 1:
        return hearings[0].environment_of(complete.pop())
    if len(kinds) == 1:
        return hearings[0].environment_of(kinds[0])
    told = "; ".join(environment.apart([_of_any(hearings, kind) for kind in kinds[:3]]))
    many = "each of them complete" if complete else "and none of them complete"
    msg = (
        f"{store}: its parts were heard on {len(kinds)} kinds of machines, {many}: {told}\n"
        "Run all parts on machines of one kind, with the same versions, in a store of their own."
    )
    raise DataError(msg)


def _warn_of_others(hearings: Sequence[Hearing]) -> None:
    """Warn if the first look was heard on machines of another kind, with which none is mixed."""
    here = environment.describe()
    kinds = set().union(*(each for hearing in hearings for each in hearing.environments(0)))
    if others := sorted(kinds - {hash_of(here)}):
        _log.warning(
            "%s has parts from another kind of machine (%s): they are not mixed with those of this "
            "one (%s)",
            hearings[0].store,
            environment.in_words(_of_any(hearings, others[0])),
            environment.in_words(here),
        )


def _of_any(hearings: Sequence[Hearing], kind: str) -> dict[str, object]:
    return next(
        each.environment_of(kind)
        for each in hearings
        if any(kind in found for found in each.environments(0))
    )


def _lacking(candidate: _Candidate, look: int, missing: int, planned: int) -> DataError:
    store, reading = candidate.original.store, candidate.subject.reader
    clips, listed = reading.sizes[look], len(reading.listed)
    which = "all" if clips == listed else f"the first {clips:,} of"
    return DataError(
        f"{store}: of {which} {listed:,} clips, {missing} of {planned} shards are missing.\n"
        "Run every part with --part, with the same arguments, and then merge again."
    )


def _distinct(candidates: Iterable[_Candidate]) -> list[Hearing]:
    """Return what all models hear, that of an original once."""
    both = (each for one in candidates for each in (one.original, one.artifact))
    return list({id(each): each for each in both}.values())


def _once(jobs: Iterable[_Job]) -> list[_Job]:
    """Return shards once: those of copies of an artifact are the same."""
    return list({shard.sha256: (hearing, shard) for hearing, shard in jobs}.values())


@dataclass(frozen=True)
class _Tasks(Sequence[Task]):
    """The tasks of shards, each made when it is about to run: its clips are in it."""

    jobs: Sequence[_Job]

    def __len__(self) -> int:
        return len(self.jobs)

    @overload
    def __getitem__(self, place: int) -> Task: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Task]: ...
    def __getitem__(self, place: int | slice) -> Task | Sequence[Task]:
        if isinstance(place, slice):
            return _Tasks(self.jobs[place])
        hearing, shard = self.jobs[place]
        return hearing.task_anywhere(shard)
