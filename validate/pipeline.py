"""Validate sealed artifacts: bytes first, then data, then each model in two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from exporter.artifact import report
from exporter.artifact.report import Report
from exporter.artifact.store import find_built_for
from exporter.engine import unfinished
from exporter.engine.executors import Executor, LocalExecutor
from exporter.engine.part_store import PartStore
from exporter.errors import DataError, RecipeError
from exporter.formats.clips.addresses import store_at
from exporter.recipe import Decoding
from exporter.system import hardware
from exporter.system.accelerators import Device
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch
from exporter.validate.corpus.index import Corpora, Reading
from exporter.validate.corpus.languages import Spoken, spoken_in
from exporter.validate.reporting import language_of
from exporter.validate.rounds import PartsHeard, PlannedLook, Rounds
from exporter.validate.scoring.normaliser import normaliser
from exporter.validate.shards.parts import hash_of
from exporter.validate.shards.reading import PartsReading
from exporter.validate.subjects import Settings, Subject, Until, open_subject
from exporter.validate.validation import Validation


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
    store: str | None = None,
    merge: bool = False,
    on: str = "local",
    timing: str = "here",
    into: Path | None = None,
    progress: Progress = lambda _what, _fraction: None,
) -> list[Report]:
    """Judge each artifact at `paths` (or in the folders there) against its original checkpoint.

    Writes report.json, report.html and predictions.jsonl beside each manifest, or below `into`. A
    run that was killed goes on where it was if it is called again with the same arguments.

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
        store: A folder, or an address like `s3://bucket/folder`, where parts of the work are found
            and kept; None: in the cache, until the reports are written.
        merge: Hear nothing, and judge the parts in `store`, of which each must be there.
        on: Where clips are heard: "local", "ray" or "ray:HOST:PORT".
        timing: Where latency is measured: "here", on a node with a label of Ray, `LABEL=VALUE`, or
            "none": anywhere, and the verdict on latency is undecided.
        into: A folder for the reports: see `report.places`.
        progress: Called with the current activity and the fraction done, 0 to 1.

    Returns:
        A report per artifact, whatever its verdict.

    Raises:
        ExporterError: DataError, CheckpointError, IntegrityError, TrustError, MachineError,
            ResourceError or BuildError; the others of `paths` are judged before it is raised.
    """
    how = data, clips, reference, threads, workers, trust, device
    settings = Settings(
        *how,
        until=until,
        skip_unreadable=skip_unreadable,
        store=store,
        merge=merge,
        on=on,
        timing=timing,
    )
    with validating(settings, progress, resumes=True) as judging:
        return judging(paths, into)


def hear_part(paths: Sequence[Path | str], settings: Settings, progress: Progress) -> PartsHeard:
    """Hear one part of the work, and write no report; the parts are merged by `validate`.

    Args:
        paths: Artifacts, or folders of them.
        settings: Settings with `part` and `store`.
        progress: Called with the current activity and the fraction done, 0 to 1.

    Returns:
        What was heard, and how much is left.

    Raises:
        ExporterError: As `validate` raises it.
    """
    with _opened(settings, progress) as run:
        subjects = run.subjects(paths, None)
        run.require_writable()
        return run.rounds(subjects).hear()


def plan(
    paths: Sequence[Path | str], settings: Settings, progress: Progress
) -> list[list[PlannedLook]]:
    """Return what is heard for each artifact at each look; no audio is opened: see `hear_part`."""
    with _opened(replace(settings, on="local"), progress, kind=PartsReading) as run:
        return run.rounds(run.subjects(paths, None)).planned()


Judging = Callable[[Sequence[Path | str], Path | None], list[Report]]
"""Judges artifacts, and writes their reports beside them or into a folder."""


@contextmanager
def validating(
    settings: Settings, progress: Progress, *, resumes: bool = False
) -> Iterator[Judging]:
    """Yield what judges artifacts, as often as it is called: each original is measured once.

    Args:
        settings: Settings that override the recipes'.
        progress: Called with the current activity and the fraction done, 0 to 1.
        resumes: Whether a call goes on where an equal one was killed.
    """
    with _opened(settings, progress) as run:

        def judging(paths: Sequence[Path | str], into: Path | None) -> list[Report]:
            subjects = run.subjects(paths, into)
            if settings.store is not None and not settings.merge:
                run.require_writable()
            key = run.key(subjects) if resumes and settings.store is None else None
            with unfinished.store(key, run.folder) if key else nullcontext() as store:
                return run.judge(subjects, store)

        yield judging


@contextmanager
def _opened(
    settings: Settings, progress: Progress, *, kind: type[Reading] | None = None
) -> Iterator[_Run]:
    """Open what runs the work, and yield a run; `kind` is what reads clips."""
    kind = kind or (PartsReading if settings.is_spread else None)
    with scratch() as place, _executor(settings, progress) as executor:
        yield _Run(settings, place, executor, progress, kind)


@contextmanager
def _executor(settings: Settings, progress: Progress) -> Iterator[Executor]:
    """Open what runs the transcription."""
    if settings.on == "local":
        yield LocalExecutor(settings.workers)
        return
    from exporter.engine.on_ray import open_ray  # late, since it needs ray

    threads = settings.threads or hardware.describe().cores
    progress("connecting to Ray", None)
    with open_ray(settings.on, threads=threads) as executor:
        label, mark, value = settings.timing.partition("=")
        if mark:
            executor.require_labels({label: value})
        if not (executor.is_local or settings.store):
            msg = (
                "a cluster needs --store, a folder or a bucket that all of its nodes reach.\n"
                "RAY_ADDRESS=local starts a Ray on this machine alone, which needs none."
            )
            raise RecipeError(msg)
        yield executor


class _Run:
    """The corpora and models of one run."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        executor: Executor,
        progress: Progress,
        kind: type[Reading] | None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.executor = executor
        self.progress = progress
        self._corpora = Corpora(
            folder, progress, skip_unreadable=settings.skip_unreadable, kind=kind
        )
        chosen = folder / "parts" if settings.store is None else store_at(settings.store)
        self._store = PartStore(chosen)

    def subjects(self, paths: Sequence[Path | str], into: Path | None) -> list[Subject]:
        """Open all artifacts, and check what can be checked before a model runs."""
        settings = self.settings
        folders = [
            folder for path in paths for folder in find_built_for(settings.device, Path(path))
        ]
        places = report.places(folders, into)
        for each in places if settings.part is None else ():
            report.require_writable(each)
        subjects = [
            open_subject(folder, where, settings, self._corpora, self.progress)
            for folder, where in zip(folders, places, strict=True)
        ]
        subjects = [replace(subject, spoken=_spoken(subject)) for subject in subjects]
        _check_texts(subjects)
        return subjects

    def require_writable(self) -> None:
        """Raise RecipeError if parts cannot be written to the store."""
        self._store.require_writable()

    def key(self, subjects: Sequence[Subject]) -> str:
        """Return what is equal for runs that do the same."""
        digests = sorted(subject.manifest.digest for subject in subjects)
        data = sorted(subject.data.model_dump_json() for subject in subjects)
        return hash_of([digests, data, self.settings.reference])

    @cached_property
    def _validation(self) -> Validation:  # late, since it imports torch
        return Validation(self.settings, self.folder, self.executor, self._store, self.progress)

    def judge(self, subjects: Sequence[Subject], store: PartStore | None) -> list[Report]:
        """Judge all artifacts; one that fails to run does not stop the others."""
        validation = self._validation
        validation.store = store or self._store
        if self.settings.is_spread:
            return self.rounds(subjects).judge()
        return validation.judge(subjects)

    def rounds(self, subjects: Sequence[Subject]) -> Rounds:
        """Return the rounds in which shards are heard, on this machine or others."""
        return Rounds(self._validation, subjects)


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
