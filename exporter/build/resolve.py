"""Resolve a recipe into artifacts to build; every mistake is reported before any write."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from torch import nn

from exporter.artifact.manifest import MANIFEST, RECIPE
from exporter.build import estimate
from exporter.build.estimate import Prediction, Step
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.checkpoint.compatibility import check_fit
from exporter.errors import MachineError, RecipeError
from exporter.families import FAMILIES, family_name
from exporter.formats.config_json import read_json
from exporter.formats.yaml_source import nearest
from exporter.recipe import Recipe
from exporter.system.hardware import installed_versions
from exporter.system.progress import Progress
from exporter.targets import TARGETS


@dataclass(frozen=True)
class Planned:
    """One target with everything resolved, what it will take, and what this machine lacks."""

    recipe: Recipe
    checkpoint: Checkpoint
    kind: str
    path: Path
    options: BaseModel
    family: str
    prediction: Prediction
    blocker: MachineError | None

    def key(self, weights_sha256: str) -> str:
        """Identify what it is made from: weights, options and versions.

        The options are those that were asked for: what a build chooses does not make it another.
        """
        parts = {
            "checkpoint": weights_sha256,
            "kind": self.kind,
            "options": self.options.model_dump(mode="json"),
            "versions": installed_versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def step(self) -> Step:
        """What it asks of disk and memory; what stands in its place goes when it is published."""
        standing = sum(file.lstat().st_size for file in self.path.rglob("*"))
        return Step(str(self.path), self.prediction, standing, self.blocker)


def resolve(
    recipe: Recipe,
    output: Path,
    checkpoint: str | None,
    targets: Sequence[str],
    progress: Progress,
    *,
    weights: bool = True,
) -> list[Planned]:
    """Check a recipe against its checkpoint and this machine.

    Without `weights` those that are still on the Hub stay there.
    """
    chosen = _chosen(recipe, targets)
    options = {index: _options(recipe, index) for index in chosen}
    if recipe.data and recipe.data.clips:
        clips = recipe.path.parent / recipe.data.clips
        if not clips.exists():
            raise recipe.error(("data", "clips"), f"there is nothing at {clips}")
    base = Path() if checkpoint else recipe.path.parent
    opened = open_checkpoint(
        checkpoint or recipe.checkpoint,
        base,
        progress,
        weights=weights,
        allow_pickle=recipe.allow_pickle,
    )
    name = family_name(opened.config)
    family = FAMILIES[name]
    skeleton = family.skeleton(opened.config)
    check_fit(opened, skeleton, family.TIED)
    with opened.gathered() as companions:
        family.check_processor(companions, opened.config)
        generation = read_json(companions / "generation_config.json")
    try:
        family.check_decoding(opened.config, generation, recipe.decoding)
    except RecipeError as error:
        raise recipe.error(("decoding",), str(error)) from None
    return [
        _planned(recipe, opened, index, options[index], skeleton, output / recipe.name)
        for index in chosen
    ]


def _planned(
    recipe: Recipe,
    checkpoint: Checkpoint,
    index: int,
    options: BaseModel,
    skeleton: nn.Module,
    folder: Path,
) -> Planned:
    """One target of a recipe, checked against the model and its place."""
    spec, name, blocker = recipe.targets[index], family_name(checkpoint.config), None
    try:
        TARGETS[spec.kind].check(options, skeleton, checkpoint, FAMILIES[name])
    except RecipeError as error:
        raise recipe.error(("targets", index), str(error)) from None
    except MachineError as error:
        blocker = error
    path = folder / spec.name
    if path.is_symlink() or (path.exists() and not (path / MANIFEST).is_file()):
        msg = f"{path} exists and is not an artifact: move it, or choose another --output"
        raise RecipeError(msg)
    carried = {**estimate.carried_bytes(checkpoint), RECIPE: len(recipe.text.encode())}
    prediction = estimate.predict(spec.kind, options, skeleton, checkpoint, carried)
    return Planned(recipe, checkpoint, spec.kind, path, options, name, prediction, blocker)


def _chosen(recipe: Recipe, names: Sequence[str]) -> list[int]:
    """The places of the targets to build: all, or those named by name or kind."""
    known = {name for spec in recipe.targets for name in (spec.name, spec.kind)}
    for name in names:
        if name not in known:
            msg = f"{recipe.path} has no target {name!r}: {', '.join(sorted(known))}"
            raise RecipeError(msg)
    return [
        index
        for index, spec in enumerate(recipe.targets)
        if not names or spec.name in names or spec.kind in names
    ]


def _options(recipe: Recipe, index: int) -> BaseModel:
    """A target's options, checked by its own module."""
    kind = recipe.targets[index].kind
    if kind not in TARGETS:
        near = nearest(kind, TARGETS)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(TARGETS)}"
        raise recipe.error(("targets", index, "kind"), f"unknown target {kind!r}: {hint}")
    return recipe.options(index, TARGETS[kind].Options)
