"""The search: survey the original, try everything quantized, rank the groups, bisect, write."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.artifact.evidence import GroupEffect
from exporter.bench import microbench
from exporter.build import estimate
from exporter.build import pipeline as builder
from exporter.build.calibration import calibrate
from exporter.errors import GateError, RecipeError
from exporter.formats.clips.addresses import Remote
from exporter.quantization.groups import ModuleGroup, parts_of
from exporter.recipe import Recipe, read
from exporter.system import hardware, worker
from exporter.system.files import partial_of, remove, write_atomic
from exporter.system.hardware import installed_versions
from exporter.system.progress import Progress, shown_bytes
from exporter.tune import page
from exporter.tune.clips import Ranking, judging, ranking
from exporter.tune.gains import (
    Gain,
    Rates,
    in_order,
    predicted,
    saved_bytes,
    saved_seconds,
    size_of,
)
from exporter.tune.recipe_text import tuned_name
from exporter.tune.results import Effect, Figures, GroupRow, Machine, Trial
from exporter.tune.search import (
    BudgetSpentError,
    Found,
    before_jump,
    longer_prefix,
    longest_prefix,
    most_trials,
)
from exporter.tune.subject import Goal, Subject, open_subject
from exporter.tune.work import Work, folder_of, opened, short_hash
from exporter.validate.evidence.results import SensitivityRequest, Survey
from exporter.validate.measure.model import ModelSpec
from exporter.validate.pipeline import Judging, validating
from exporter.validate.subjects import Settings as JudgeSettings

_MEASURE = "exporter.validate.evidence.sensitivity:measure"  # by name, since it imports torch
_SURVEYED = 3  # clips
_LEAST_CLIPS = 2
_FIXED_S = 25.0  # of judging a plan: processes that start, and the clips of the comparison
_COMPARED = 60  # forward passes of the comparison of an artifact with its original
_FLOAT32_BYTES = 4
_BASE_BYTES = 700_000_000  # of a process with torch and transformers
_NO_PLAN_HELPS = {"clips", "true texts", "original", "reference"}
_REFINING = 3  # plans that keep single modules of the harmful groups quantized
_WORTH = 0.04  # of what all groups save: with less left in float, single modules are not tried
_ALIKE = 1.03  # times of the same plan differ by that
_now = time.monotonic
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is searched, and how long.

    Attributes:
        target: The target's name or kind; None is the recipe's first.
        goal: What the plan shall save.
        clips: Clips to rank groups on: a folder, a manifest or an address in an object store; None:
            those of the recipe's calibration.
        count: The most of them.
        threads: CPU threads; None: as compiled in, or all cores.
        budget_s: Seconds for the whole search; None is without a limit.
        output: The recipe to write; None is beside the given one.
        force: Replace an existing file.
    """

    target: str | None = None
    goal: Goal = "speed"
    clips: Path | Remote | None = None
    count: int = 16
    threads: int | None = None
    budget_s: float | None = None
    output: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Tuned:
    """What a search wrote: the recipe if a plan passed, and the page with its figures beside it."""

    recipe: Path | None
    page: Path
    figures: Figures


def tune(
    recipe: Recipe,
    settings: Settings,
    *,
    progress: Progress,
    tell: Tell = lambda _line: None,
    expect: Callable[[float], None] = lambda _seconds: None,
) -> Tuned:
    """Find the plan that saves the most and passes the recipe's gate, and write it as a recipe.

    Args:
        recipe: The recipe.
        settings: What is searched.
        progress: Receives the current step, and the fraction done where it is known.
        tell: Receives what is about to be done, and what was found, a line each.
        expect: Receives the estimated seconds before the search begins.

    Raises:
        RecipeError: The recipe or a setting is wrong, or the budget is shorter than one trial.
        DataError: Clips to rank on or to calibrate on cannot be read, or those to rank on judge.
        GateError: No plan can pass on these data.
        BusyError: Another search is at work in the same place.
        ExporterError: What `build` and `validate` raise.
    """
    output = settings.output or recipe.path.with_name(f"{recipe.path.stem}-tuned.yaml")
    _require_free(recipe, output, settings)
    folder = folder_of(output)
    subject = open_subject(recipe, settings.target, folder / "artifacts", progress)
    chosen = ranking(settings.clips, settings.count, recipe, subject.planned.calibration)
    with opened(folder, _key(subject, settings, chosen)) as work:
        search = _Search(subject, settings, chosen, work, progress, tell)
        search.begin(expect)
        search.calibrate()
        words_only = JudgeSettings(
            data=None,
            max_clips=None,
            reference=None,
            threads=settings.threads,
            workers=1,
            trust=False,
            blame=False,
            evidence=False,
        )
        with validating(words_only, progress) as judge:
            found = search.run(judge)
        figures = search.figures(found)
    written = _write(search.subject, figures, output)
    if figures.complete and figures.chosen is not None:
        remove(folder)
    return written


def _require_free(recipe: Recipe, output: Path, settings: Settings) -> None:
    if output.resolve() == recipe.path.resolve():
        msg = f"--output {output} is the recipe itself: name another file"
        raise RecipeError(msg)
    if output.suffix not in (".yaml", ".yml"):
        msg = f"--output {output}: the result is a recipe, so name a .yaml file"
        raise RecipeError(msg)
    if output.exists() and not settings.force:
        msg = f"{output} exists: replace it with --force, or name another with --output"
        raise RecipeError(msg)


def _key(subject: Subject, settings: Settings, chosen: Ranking) -> dict[str, Any]:
    """Return what the results of steps depend on; the goal only changes the order of groups."""
    recipe, calibration = subject.recipe, subject.planned.calibration
    assert recipe.data is not None, "checked before"
    return {
        "recipe": recipe.sha256,
        "target": subject.name,
        "checkpoint": subject.planned.checkpoint.sha256,
        "ranking": chosen.sha256,
        "calibration": calibration.as_data() if calibration else None,
        "data": judging(recipe, recipe.data)[1],
        "threads": settings.threads,
        "versions": installed_versions(),
        "machine": hardware.describe().as_dict(),
    }


class _Search:
    """One search: its trials, the order of its groups, and its clock."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        chosen: Ranking,
        work: Work,
        progress: Progress,
        tell: Tell,
    ) -> None:
        self._subject, self._settings, self._clips = subject, settings, chosen
        self._work, self._progress, self._tell = work, progress, tell
        self._began = _now()
        self._trials: list[Trial] = []
        self._effects: dict[str, GroupEffect] = {}
        self._order: list[ModuleGroup] = []
        self._used = 0  # clips to rank on
        self._trial_s = 0.0
        self._judge: Judging | None = None

    @property
    def subject(self) -> Subject:
        """The target, with the groups that the names in trials are of."""
        return self._subject

    def begin(self, expect: Callable[[float], None]) -> None:
        """Survey the original, estimate everything, and tell it.

        Raises:
            RecipeError: The budget is shorter than one trial, or nothing can be saved.
        """
        self._survey = self._surveyed()
        self._gain = self._saved()
        self._gains = {group.name: self._gain(group) for group in self._subject.groups}
        self._candidates = self._saving(self._subject.groups)
        if not self._candidates:
            msg = f"{self._subject.recipe.path}: no group of {self._subject.name} saves any bytes"
            raise RecipeError(msg)
        whole = self._tell_estimate()
        if kept := self._work.count("trial-"):
            plans = "1 plan" if kept == 1 else f"{kept} plans"
            self._tell(f"goes on after an earlier run, which judged {plans}")
        expect(whole if self._settings.budget_s is None else min(whole, self._settings.budget_s))
        first = self._trial_s + self._original_s
        budget = self._settings.budget_s
        if budget is not None and budget < first and not self._known(self._candidates):
            msg = (
                f"--budget {spoken(budget)} is too short: to build and judge one plan takes about "
                f"{spoken(first)}"
            )
            raise RecipeError(msg)

    def calibrate(self) -> None:
        """Calibrate the ranges of static modules once, for the ranking and for every plan."""
        subject, planned = self._subject, self._subject.planned
        if planned.calibration is None:
            return
        modules = planned.plan.calibrated
        how = planned.calibration, modules, planned.checkpoint, subject.recipe, self._progress
        calibrated = calibrate(*how, fresh=False)
        self._subject = replace(subject, planned=replace(planned, calibrated=calibrated))

    def run(self, judge: Judging) -> Found:
        """Search; what was found in an earlier run is not done again."""
        self._judge = judge
        found = longest_prefix(len(self._candidates), self._prefix_passes, self._guess)
        if not found.complete or found.longest in (None, len(self._candidates)):
            return found
        try:
            self._refine(self._ranked()[: found.longest], self._ranked()[found.longest :])
        except BudgetSpentError:
            return replace(found, complete=False)
        return found

    def figures(self, found: Found) -> Figures:
        """Return everything that was measured, and the chosen trial."""
        subject, chosen = self._subject, self._chosen()
        quantized = () if chosen is None else self._trials[chosen].quantized
        rows = tuple(
            GroupRow(
                name=group.name,
                patterns=tuple(subject.patterns(group)),
                modules=len(group.modules),
                saved=self._gains[group.name],
                effect=self._effects.get(group.name),
                quantized=group.name in quantized,
            )
            for group in subject.groups
        )
        everything = [group.name for group in subject.groups]
        return Figures(
            recipe=subject.recipe.name,
            target=subject.name,
            goal=self._settings.goal,
            clips=self._used,
            groups=rows,
            trials=tuple(self._trials),
            chosen=chosen,
            complete=found.complete,
            size_quantized=self._size(everything),
            size_float=self._size(()),
            seconds=_now() - self._began,
            frames=self._survey.frames,
        )

    def _size(self, quantized: Collection[str]) -> int:
        subject = self._subject
        return size_of(subject.planned, subject.plan(quantized), subject.skeleton)

    def _chosen(self) -> int | None:
        """Return the index of the best trial that passed.

        By size, it is the smallest. By speed, it is the one with the most groups of those that are
        as fast as the fastest, since two measurements of one plan differ by some percent.
        """
        passed = [place for place, trial in enumerate(self._trials) if trial.passed]
        if not passed:
            return None
        if self._settings.goal == "size":
            return min(passed, key=lambda place: self._trials[place].size_bytes)
        best = min(self._trials[place].latency_ratio for place in passed)
        fast = [p for p in passed if self._trials[p].latency_ratio <= _ALIKE * best]
        return max(fast, key=lambda place: len(self._trials[place].quantized))

    # What is measured of the original.

    def _surveyed(self) -> Survey:
        kept = self._work.read("survey", Survey)
        if kept is not None:
            return kept
        found: list[Survey] = []

        def keep(result: Mapping[str, Any]) -> None:
            found.append(Survey.model_validate(result["survey"]))

        self._measure(self._clips.paths[:_SURVEYED], {}, None, keep)
        self._work.write("survey", found[0])
        return found[0]

    def _measure(
        self,
        clips: Sequence[Path],
        groups: Mapping[str, tuple[str, ...]],
        trial: Trial | None,
        keep: Callable[[Mapping[str, Any]], None],
    ) -> None:
        subject, threads = self._subject, self._threads
        request = SensitivityRequest(
            original=ModelSpec(
                model=subject.planned.checkpoint.folder.resolve(),
                original=True,
                trust=subject.recipe.allow_pickle,
                threads=threads,
                decoding=subject.recipe.decoding,
            ),
            clips=tuple(clips),
            groups=dict(groups),
            manifest=trial.manifest if trial else None,
            plan=tuple(subject.planned.plan_to_build.as_data()),
        )
        plain = request.model_dump(mode="json")
        worker.run(
            _MEASURE, plain, self._progress, what="the original", threads=threads, on_result=keep
        )

    @property
    def _threads(self) -> int:
        compiled = getattr(self._subject.planned.options, "threads", None)
        return self._settings.threads or compiled or hardware.describe().cores

    def _saving(self, groups: Sequence[ModuleGroup]) -> list[ModuleGroup]:
        return [group for group in groups if self._gains[group.name] > 0]

    def _saved(self) -> Gain:
        """Return what gives a group's saving; by speed all save a little: it is an estimate."""
        subject = self._subject
        how = subject.planned, subject.skeleton, subject.instead
        if self._settings.goal == "size":
            return saved_bytes(*how)
        machine = self._work.read("machine", Machine)
        if machine is None:
            machine = Machine(measured=microbench.measure_fresh(self._threads, self._progress))
            self._work.write("machine", machine)
        gain = saved_seconds(*how, self._survey, Rates.of(machine.measured))
        return lambda group: max(gain(group), 1e-9)

    def _tell_estimate(self) -> float:
        """Tell what is to be done; return the estimated seconds of the whole search."""
        subject, survey = self._subject, self._survey
        calibration, prediction = subject.planned.calibration, subject.planned.prediction
        built_s = predicted(subject.planned, subject.planned.plan, subject.skeleton).seconds
        calibrating = survey.transcribe_s * len(calibration.paths) if calibration else 0.0
        recipe, data = subject.recipe, subject.recipe.data
        assert data is not None, "checked before"
        clips, _ = judging(recipe, data)
        heard = clips * survey.transcribe_s
        self._original_s = heard
        self._trial_s = (
            built_s + prediction.reload_seconds + heard + _FIXED_S + _COMPARED * survey.forward_s
        )
        ranking = len(self._candidates) * len(self._clips.paths) * survey.forward_s
        trials = most_trials(len(self._candidates)) + _REFINING
        whole = heard + calibrating + trials * self._trial_s + ranking
        float32 = _FLOAT32_BYTES * subject.planned.checkpoint.parameters
        memory = max(
            prediction.peak_rss_bytes, prediction.reload_rss_bytes, _BASE_BYTES + 2 * float32
        )
        estimate.require_room([subject.planned.step], estimate.room_at(self._work.folder))
        first = f"{spoken(calibrating)} to calibrate {calibration}, " if calibration else ""
        self._tell(
            f"{recipe.name}, {subject.name}: {len(self._candidates)} groups of modules, ranked on "
            f"{len(self._clips.paths)} clips;\n{clips:,} others judge the plans\n"
            f"{first}{spoken(ranking)} to rank the groups,\n"
            f"{spoken(self._trial_s)} to build and judge each of at most {trials} plans: "
            f"about {spoken(whole)} in all\n"
            f"{shown_bytes(memory)} of memory, {shown_bytes(prediction.disk_bytes)} of disk"
        )
        return whole

    # Trials.

    def _prefix_passes(self, count: int) -> bool:
        every = count == len(self._candidates)
        return self._passes(self._candidates if every else self._ranked()[:count])

    def _refine(self, quantized: Sequence[ModuleGroup], left: Sequence[ModuleGroup]) -> None:
        """Quantize single modules of the groups that are float, those first that harm least.

        Often only one module of a block does not bear its scheme, like that behind a norm.

        Args:
            quantized: The groups of the longest prefix that passes.
            left: The others.
        """
        subject = self._subject
        split = {group.name: parts_of(group, subject.shared) for group in left}
        worth = sum(self._gains[name] for name in split)
        if worth < _WORTH * sum(self._gains[group.name] for group in self._candidates):
            return
        parts = [part for group in left for part in split[group.name]]
        if len(parts) == len(left):
            return
        self._gains |= {part.name: self._gain(part) for part in parts}
        parts = self._saving(parts)
        self._rank(parts)
        groups = tuple(part for each in subject.groups for part in split.get(each.name, [each]))
        self._subject = replace(subject, groups=groups)
        named = {name: [part.name for part in some] for name, some in split.items()}
        self._trials = [_renamed(trial, named) for trial in self._trials]
        ordered = self._ordered(parts)

        def passes(count: int) -> bool:
            return self._passes([*quantized, *ordered[:count]])

        longer_prefix(len(parts), passes, before_jump(self._harms(ordered)), _REFINING)

    def _passes(self, groups: Sequence[ModuleGroup]) -> bool:
        trial = self._known(groups)
        if trial is None:
            self._require_time(self._trial_s)
            trial = self._try(groups)
            self._work.write(_trial_name(groups), trial)
        self._trials.append(trial)
        self._trial_s = trial.seconds
        self._tell(self._told(trial))
        if _NO_PLAN_HELPS & set(trial.failed):
            msg = f"no plan can pass this gate on these data. {trial.sentence}"
            raise GateError(msg)
        return trial.passed

    def _guess(self) -> int:
        """Return the prefix before the groups that do much more harm for what they save."""
        return before_jump(self._harms(self._ranked()))

    def _harms(self, groups: Sequence[ModuleGroup]) -> list[float]:
        return [self._effects[g.name].kl_mean / self._gains[g.name] for g in groups]

    def _told(self, trial: Trial) -> str:
        count, difference = len(trial.quantized), trial.wer_difference
        return (
            f"{count} of {len(self._subject.groups)} groups quantized: {trial.told}, WER "
            f"{trial.wer:.2%} ({100 * difference.value:+.2f} points, at most "
            f"{100 * difference.high:+.2f}),\n{trial.latency_ratio:.2f} x the original's time, "
            f"{shown_bytes(trial.size_bytes)}"
        )

    def _known(self, groups: Sequence[ModuleGroup]) -> Trial | None:
        return self._work.read(_trial_name(groups), Trial)

    def _require_time(self, needed_s: float) -> None:
        left = self._left_s()
        if left is not None and left < needed_s:
            raise BudgetSpentError

    def _left_s(self) -> float | None:
        """Return the seconds left of the budget; None where there is none."""
        budget = self._settings.budget_s
        return None if budget is None else budget - (_now() - self._began)

    def _try(self, groups: Sequence[ModuleGroup]) -> Trial:
        """Build a plan, judge it, and remove what was built."""
        assert self._judge is not None, "set by `run`"
        began = _now()
        names = tuple(group.name for group in groups)
        self._work.clear_artifacts()
        (built,) = builder.build(
            self._subject.trial(names),
            output=self._work.built,
            calibrated=self._subject.calibrated,
            progress=self._progress,
        )
        manifest = store.read_manifest(built.path)
        (report,) = self._judge([built.path], None)
        self._work.clear_artifacts()
        return Trial(
            quantized=names,
            verdict=report.verdict,
            sentence=report.sentence,
            failed=tuple(check.name for check in report.checks if not check.passed),
            wer=report.figures.wer,
            wer_reference=report.reference_figures.wer,
            wer_difference=report.wer_difference,
            latency_ratio=report.latency_ratio.value,
            size_bytes=report.figures.size_bytes,
            seconds=_now() - began,
            manifest=manifest.model_copy(update={"files": ()}),
        )

    # The order of the groups.

    def _ranked(self) -> list[ModuleGroup]:
        """Return the candidates, those first that do the least harm for what they save."""
        if not self._order:
            self._rank(self._candidates)
            self._order = self._ordered(self._candidates)
        return self._order

    def _ordered(self, groups: Sequence[ModuleGroup]) -> list[ModuleGroup]:
        divergence = {name: effect.kl_mean for name, effect in self._effects.items()}
        return in_order(groups, divergence, self._gains)

    def _rank(self, groups: Sequence[ModuleGroup]) -> None:
        """Measure what each group does, on as many clips as at first."""
        clips = self._clips.paths[: self._used] or self._affordable()
        self._used = len(clips)
        left: dict[str, tuple[str, ...]] = {}
        for group in groups:
            kept = self._work.read(self._effect_name(group.name), Effect)
            if kept is None:
                left[group.name] = group.modules
            else:
                self._effects[group.name] = kept.effect

        def keep(result: Mapping[str, Any]) -> None:
            if "effect" in result:
                effect = GroupEffect.model_validate(result["effect"])
                self._effects[effect.name] = effect
                self._work.write(self._effect_name(effect.name), Effect(effect=effect))

        if left:
            self._require_time(len(left) * len(clips) * self._survey.forward_s)
            self._measure(clips, left, self._trials[0], keep)

    def _effect_name(self, group: str) -> str:
        return f"effect-{short_hash([group, self._used])}"

    def _affordable(self) -> tuple[Path, ...]:
        """Return the clips to rank on: fewer if they would take over a third of the time left."""
        clips, left = self._clips.paths, self._left_s()
        if left is None:
            return clips
        each = len(self._candidates) * self._survey.forward_s
        most = int(left / 3 / each)
        if most < min(_LEAST_CLIPS, len(clips)):
            raise BudgetSpentError
        if most < len(clips):
            self._tell(f"the groups are ranked on {most} clips, for want of time")
        return clips[:most]


def _renamed(trial: Trial, parts: Mapping[str, Sequence[str]]) -> Trial:
    """Return a trial with the names of parts in place of those of their groups."""
    names = tuple(part for name in trial.quantized for part in parts.get(name, [name]))
    return trial.model_copy(update={"quantized": names})


def _trial_name(groups: Sequence[ModuleGroup]) -> str:
    return f"trial-{short_hash(sorted(group.name for group in groups))}"


def _write(subject: Subject, figures: Figures, output: Path) -> Tuned:
    """Write the recipe of the chosen trial, the page and the figures."""
    written: Path | None = None
    if figures.chosen is not None:
        quantized = figures.trials[figures.chosen].quantized
        note = f"Found by `exporter tune` for {subject.name}, by {figures.goal}."
        text = subject.text(quantized, note, output)
        _check(subject, text, quantized, output)
        write_atomic(output, text.encode())
        written = output
    shown = output.with_suffix(".html")
    name, gate = tuned_name(subject.recipe.name), subject.recipe.gate
    write_atomic(shown, page.render(figures, name, gate.max_wer_increase).encode())
    write_atomic(output.with_suffix(".json"), figures.model_dump_json(indent=1).encode() + b"\n")
    return Tuned(written, shown, figures)


def _check(subject: Subject, text: str, quantized: Collection[str], output: Path) -> None:
    """Check that a text is a recipe with exactly this plan, before it gets its name."""
    tried = partial_of(output)
    try:
        tried.write_text(text, encoding="utf-8")
        subject.require_plan(read(tried), quantized)
    finally:
        tried.unlink(missing_ok=True)


def spoken(seconds: float) -> str:
    """Return a duration as an estimate is told: 40 s, 12 min, 1 h 20 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
