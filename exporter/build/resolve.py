"""Resolve a recipe into artifacts to build; every mistake is reported before any write."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from exporter.artifact.manifest import MANIFEST, RECIPE
from exporter.build import estimate
from exporter.build.calibration import Calibrated, Calibration, plan_calibrations
from exporter.build.estimate import Prediction, Step
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint, warn_of_adapter
from exporter.checkpoint.compatibility import check_fit
from exporter.errors import CheckpointError, HubError, MachineError, RecipeError
from exporter.families import FAMILIES, family_facts, family_name, read_configs
from exporter.quantization import summary
from exporter.quantization.plan import (
    Match,
    QuantizationPlan,
    plan_of,
    require_schemes,
    shared_tables,
)
from exporter.quantization.resolve import resolve_quantization
from exporter.recipe import Recipe
from exporter.runtime.decoding import foreign_option, foreign_options
from exporter.system.accelerators import DEVICES
from exporter.system.files import require_no_link
from exporter.system.hardware import installed_versions
from exporter.system.progress import Progress
from exporter.system.text import nearest
from exporter.targets import TARGETS, default_scheme, facts_of
from exporter.targets.options import TargetOptions


@dataclass(frozen=True)
class Planned:
    """One resolved target, its estimate, and what this machine lacks for it."""

    recipe: Recipe
    checkpoint: Checkpoint
    kind: str
    path: Path
    options: TargetOptions
    plan: QuantizationPlan
    quantization: list[summary.Row]
    family: str
    prediction: Prediction
    blocker: MachineError | None
    calibration: Calibration | None = None
    calibrated: Calibrated | None = None

    @property
    def output(self) -> Path:
        """The folder that the user named for artifacts."""
        return self.path.parents[1]

    @property
    def plan_to_build(self) -> QuantizationPlan:
        """The plan, with ranges once they are calibrated."""
        return (
            self.plan if self.calibrated is None else self.plan.with_ranges(self.calibrated.ranges)
        )

    def key(self, weights_sha256: str) -> str:
        """Return the digest of the build's inputs: weights, options, plan and versions.

        The options are those of the recipe, not what the build chose for `auto`; and the plan has
        no ranges, which follow from what calibrates them.
        """
        parts = {
            "checkpoint": weights_sha256,
            "kind": self.kind,
            "options": self.options.model_dump(mode="json"),
            "quantization": self.plan.as_data(),
            "versions": installed_versions(),
            **({"calibration": self.calibration.as_data()} if self.calibration else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def step(self) -> Step:
        """The disk and memory that it needs; publishing it removes what is in its place."""
        replaced_bytes = sum(file.lstat().st_size for file in self.path.rglob("*"))
        return Step(str(self.path), self.prediction, replaced_bytes, self.blocker)


def resolve(
    recipe: Recipe,
    output: Path,
    checkpoint: str | None,
    targets: Sequence[str],
    progress: Progress,
    *,
    weights: bool = True,
    by_name: bool = False,
) -> list[Planned]:
    """Check a recipe against its checkpoint and this machine.

    Args:
        recipe: The recipe.
        output: The folder of artifacts.
        checkpoint: A folder or Hub id in place of the recipe's.
        targets: Names or kinds of the targets; all if empty.
        progress: Receives attempts and bytes of a download.
        weights: Download weights that are not on this machine.
        by_name: Take `targets` for names only.

    Returns:
        The targets in the recipe's order. What this machine lacks is in their `blocker`.

    Raises:
        RecipeError: The recipe is wrong, citing the line, or something else is in a target's place.
        CheckpointError: The checkpoint cannot be used.
        HubError: The Hub refused, or could not be reached.
    """
    chosen = _chosen(recipe, targets, by_name)
    options = {index: _options(recipe, index) for index in chosen}
    if recipe.data and recipe.data.clips:
        clips = recipe.path.parent / recipe.data.clips
        if not clips.exists():
            raise recipe.error(("data", "clips"), f"there is nothing at {clips}")
    opened = _opened(recipe, checkpoint, progress, weights=weights)
    warn_of_adapter(opened)
    name = family_name(opened.config)
    family = FAMILIES[name]
    skeleton = family.skeleton(opened.config)
    check_fit(opened, skeleton, family.TIED)
    with opened.gathered() as companions:
        family.check_processor(companions, opened.config)
        configs = read_configs(companions, name)
    known = family_facts(name).DECODING
    for option in foreign_options(vars(recipe.decoding), known):
        raise recipe.error(("decoding", option), foreign_option(option, known))
    try:
        family.check_decoding(configs, recipe.decoding)
    except RecipeError as error:
        raise recipe.error(("decoding",), str(error)) from None
    shared = shared_tables(family.TIED, opened.tensors)
    matches = resolve_quantization(recipe, chosen, skeleton, family.HEAD, shared, default_scheme)
    plans = {index: plan_of(matches[index], skeleton) for index in chosen}
    calibrations = plan_calibrations(recipe, plans)
    found = [
        _planned(recipe, opened, i, options[i], matches[i], skeleton, output / recipe.name)
        for i in chosen
    ]
    first = {each: index for index, each in reversed(calibrations.items())}
    return [
        planned
        if index not in calibrations
        else replace(
            planned,
            calibration=calibrations[index],
            prediction=estimate.with_calibration(
                planned.prediction,
                opened,
                len(calibrations[index].paths),
                runs=first[calibrations[index]] == index,
            ),
        )
        for index, planned in zip(chosen, found, strict=True)
    ]


def _opened(recipe: Recipe, other: str | None, progress: Progress, *, weights: bool) -> Checkpoint:
    """Open `other`, or the recipe's checkpoint; if there is none, cite the recipe's line."""
    source, base = other or recipe.checkpoint, Path() if other else recipe.path.parent
    try:
        return open_checkpoint(
            source,
            base,
            progress,
            weights=weights,
            allow_pickle=recipe.allow_pickle,
            language=recipe.decoding.language,
        )
    except RecipeError as error:
        raise recipe.error(("decoding", "language"), str(error)) from None
    except (CheckpointError, HubError) as error:
        if other or (base / source).exists():
            raise
        raise type(error)(recipe.cite(("checkpoint",), str(error))) from error


def _planned(
    recipe: Recipe,
    checkpoint: Checkpoint,
    index: int,
    options: TargetOptions,
    matches: Sequence[Match],
    skeleton: nn.Module,
    folder: Path,
) -> Planned:
    """Check one target of a recipe against the model and its place, and estimate it."""
    spec, name, blocker = recipe.targets[index], family_name(checkpoint.config), None
    target, family, plan = TARGETS[spec.kind], FAMILIES[name], plan_of(matches, skeleton)
    try:
        require_schemes(plan, spec.kind, target.SCHEMES)
        target.check(options, plan, skeleton, checkpoint, family)
    except RecipeError as error:
        raise recipe.error(("targets", index), str(error)) from None
    except MachineError as error:
        blocker = error
    path = folder / spec.name
    require_no_link(path, folder.parent)
    if path.exists() and not (path / MANIFEST).is_file():
        msg = f"{path} exists and is not an artifact: move it, or choose another --output"
        raise RecipeError(msg)
    carried = {**estimate.carried_bytes(checkpoint), RECIPE: len(recipe.text.encode())}
    return Planned(
        recipe=recipe,
        checkpoint=checkpoint,
        kind=spec.kind,
        path=path,
        options=options,
        plan=plan,
        quantization=summary.rows(matches, skeleton, checkpoint, family.TIED),
        family=name,
        prediction=estimate.predict(spec.kind, options, plan, skeleton, checkpoint, carried),
        blocker=blocker,
    )


def _chosen(recipe: Recipe, names: Sequence[str], by_name: bool) -> list[int]:
    """Return the indices of the targets to build: all, or those named by name or kind."""
    known = {name for spec in recipe.targets for name in (spec.name, spec.kind)}
    for name in names:
        if name not in known:
            msg = f"{recipe.path} has no target {name!r}: {', '.join(sorted(known))}"
            raise RecipeError(msg)
    return [
        index
        for index, spec in enumerate(recipe.targets)
        if not names or spec.name in names or (spec.kind in names and not by_name)
    ]


def _options(recipe: Recipe, index: int) -> TargetOptions:
    """Return a target's options, checked by its own module."""
    kind = recipe.targets[index].kind
    if kind not in TARGETS:
        near = nearest(kind, TARGETS)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(TARGETS)}"
        raise recipe.error(("targets", index, "kind"), f"unknown target {kind!r}: {hint}")
    device = recipe.targets[index].options.get("device")
    if device in DEVICES and device not in facts_of(kind).COSTS:
        message = _other_kinds(kind, device)
        raise recipe.error(("targets", index, "device"), message)
    return recipe.options(index, TARGETS[kind].Options)


def _other_kinds(kind: str, device: str) -> str:
    """Return the error for a device that a kind of target is not built for."""
    offered = ", ".join(facts_of(kind).COSTS)
    others = [f"kind: {other}" for other in TARGETS if device in facts_of(other).COSTS]
    hint = f"for {device} take {' or '.join(others)}" if others else f"no kind is for {device}"
    return f"{kind} is built for {offered}; {hint}"
