"""From a recipe to sealed artifacts: resolve everything, then build, reload and publish each.

All mistakes are told before the first target is built; what stood in an artifact's place stays
until its successor is sealed and has spoken.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from exporter import artifact, child, plan
from exporter.artifact import BuildFigures, Manifest, Needs, RecipeStamp
from exporter.checkpoint import Checkpoint, open_checkpoint, read_json
from exporter.errors import MachineError, RecipeError
from exporter.families import FAMILIES, family_name
from exporter.machine import describe, installed_versions
from exporter.plan import Prediction, Room, Step
from exporter.progress import Progress
from exporter.quantize import check_fit
from exporter.recipe import Recipe
from exporter.recipe import read as read_recipe
from exporter.runtime import RECIPE
from exporter.source import nearest
from exporter.targets import TARGETS

_SOUNDS = (".flac", ".wav", ".ogg", ".mp3")


@dataclass(frozen=True)
class BuiltArtifact:
    """A sealed artifact; `reused` when it stood there already, made from the very same things.

    `reload` is what its first words cost, as `child` measured them, where it was built now.
    """

    path: Path
    manifest: Manifest
    prediction: Prediction
    reload: dict[str, Any] | None = None

    @property
    def reused(self) -> bool:
        """Whether nothing was built."""
        return self.reload is None


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
    obstacle: MachineError | None

    def key(self, weights_sha256: str) -> str:
        """Identify what it is made from: weights, options and versions."""
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
        standing = sum(file.stat().st_size for file in self.path.rglob("*"))
        return Step(str(self.path), self.prediction, standing, self.obstacle)


def build(
    recipe: Recipe,
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    progress: Progress,
) -> list[BuiltArtifact]:
    """Build a recipe's targets (or the named ones) below `output`/<recipe's name>.

    An artifact made from the same checkpoint, options and versions is verified and kept (under new
    terms of judging it is sealed again); another one in its place is an error unless `force`.
    Nothing is begun that does not fit this machine.
    """
    planned = _resolve(recipe, output, checkpoint, targets, progress, weights=False)
    kept = _kept(planned, force)
    wanted = [p for p in planned if p.path not in kept]
    plan.require_room([p.step for p in wanted], plan.room_at(output))
    if any(p.checkpoint.remote for p in wanted):  # all is well: now gigabytes may be fetched
        planned = _resolve(recipe, output, checkpoint, targets, progress)
    return [
        BuiltArtifact(p.path, _with_terms(p, kept[p.path]), p.prediction)
        if p.path in kept
        else _build_one(p, progress, fresh=force)
        for p in planned
    ]


def dry_run(
    recipe: Recipe,
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    progress: Progress,
) -> tuple[list[plan.Row], Room]:
    """Tell what `build` with the same arguments would do, a row per target; nothing is written.

    Weights that are not on this machine stay on the Hub: their shapes are enough.
    """
    planned = _resolve(recipe, output, checkpoint, targets, progress, weights=False)
    kept, room = _kept(planned, force), plan.room_at(output)
    wanted = [p for p in planned if p.path not in kept]
    reasons = plan.shortages([p.step for p in wanted], room)
    verdicts = {p.path: plan.verdict(reason) for p, reason in zip(wanted, reasons, strict=True)}
    rows = [
        {
            "artifact": str(p.path),
            "kind": p.kind,
            "options": p.options.model_dump(mode="json"),
            "checkpoint": p.checkpoint.source,
            "family": p.family,
            "parameters": p.checkpoint.parameters,
            "fetch_bytes": sum(p.checkpoint.remote.values()),
            "action": "keep" if p.path in kept else "replace" if p.path.exists() else "build",
            **p.prediction.as_row(),
            **verdicts.get(p.path, plan.verdict(None)),
        }
        for p in planned
    ]
    return rows, room


def _resolve(
    recipe: Recipe,
    output: Path,
    checkpoint: str | None,
    targets: Sequence[str],
    progress: Progress,
    *,
    weights: bool = True,
) -> list[Planned]:
    """Check a recipe against its checkpoint and this machine; nothing is written."""
    chosen = _chosen(recipe, targets)
    options = {index: _options(recipe, index) for index in chosen}
    if recipe.data and recipe.data.clips:
        clips = recipe.path.parent / recipe.data.clips
        if not clips.exists():
            raise recipe.error(("data", "clips"), f"there is nothing at {clips}")
    base = Path() if checkpoint else recipe.path.parent
    opened = open_checkpoint(checkpoint or recipe.checkpoint, base, progress, weights=weights)
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
    spec, name, obstacle = recipe.targets[index], family_name(checkpoint.config), None
    try:
        TARGETS[spec.kind].check(options, skeleton, FAMILIES[name])
    except RecipeError as error:
        raise recipe.error(("targets", index), str(error)) from None
    except MachineError as error:
        obstacle = error
    path = folder / spec.name
    if path.is_symlink() or (path.exists() and not (path / artifact.MANIFEST).is_file()):
        msg = f"{path} is in the way and is not an artifact: move it, or choose --output"
        raise RecipeError(msg)
    carried = {**plan.carried_bytes(checkpoint), RECIPE: len(recipe.text.encode())}
    prediction = plan.predict(spec.kind, options, skeleton, checkpoint, carried)
    return Planned(recipe, checkpoint, spec.kind, path, options, name, prediction, obstacle)


def _kept(planned: Sequence[Planned], force: bool) -> dict[Path, Manifest]:
    """The artifacts that stand already, made from the same things, and need no build."""
    standing = {} if force else {p.path: _standing(p) for p in planned}
    return {path: manifest for path, manifest in standing.items() if manifest is not None}


def _build_one(planned: Planned, progress: Progress, *, fresh: bool) -> BuiltArtifact:
    """Build one target aside, seal it, let it speak, and put it in its place.

    `fresh` builds anew what an earlier build has left in the cache.
    """
    name, recipe, checkpoint = planned.path.name, planned.recipe, planned.checkpoint

    def told(what: str, done: float | None) -> None:
        progress(f"{name}: {what}", done)

    told("starting", None)
    with artifact.stage(planned.path) as folder:
        request = {
            "checkpoint": str(checkpoint.folder.resolve()),
            "kind": planned.kind,
            "options": planned.options.model_dump(mode="json"),
            "folder": str(folder.resolve()),
            "fresh": fresh,
        }
        answer = child.run("exporter.steps:build_target", request, told, what=name)
        for file, path in checkpoint.companions.items():
            shutil.copyfile(path, folder / file)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        manifest = artifact.seal(folder, _manifest(planned, answer))
        spoken = {
            "folder": str(folder.resolve()),
            "decoding": recipe.decoding.model_dump(mode="json"),
            "clip": _one_clip(recipe),
        }
        reload = child.run("exporter.steps:speak", spoken, told, what=name)
        artifact.publish(folder, planned.path)
    return BuiltArtifact(planned.path, manifest, planned.prediction, reload)


def _manifest(planned: Planned, answer: dict[str, Any]) -> Manifest:
    recipe = planned.recipe
    return Manifest(
        name=recipe.name,
        kind=planned.kind,
        family=planned.family,
        options=planned.options.model_dump(mode="json"),
        recipe=_stamp(recipe),
        checkpoint=planned.checkpoint.origin,
        needs=Needs(cpu_features=answer["cpu_features"], packages=answer["packages"]),
        versions=installed_versions(),
        machine=describe().as_dict(),
        build=BuildFigures(
            seconds=answer["seconds"],
            peak_rss_bytes=answer["peak_rss_bytes"],
            predicted=planned.prediction.for_manifest(),
        ),
        build_key=planned.key(planned.checkpoint.sha256),
    )


def _with_terms(planned: Planned, manifest: Manifest) -> Manifest:
    """A kept artifact under the recipe's decoding, data and gate: where they changed, sealed anew.

    `validate` judges by the sealed recipe. The files are copied as they are; a report that was made
    under other terms is left behind.
    """
    recipe, terms = planned.recipe, {"decoding", "data", "gate"}
    sealed = read_recipe(planned.path / RECIPE)
    if sealed.model_dump(include=terms) == recipe.model_dump(include=terms):
        return manifest
    with artifact.stage(planned.path) as folder:
        for file in manifest.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(planned.path / file.path, folder / file.path)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        renewed = artifact.seal(folder, manifest.model_copy(update={"recipe": _stamp(recipe)}))
        artifact.publish(folder, planned.path)
    return renewed


def _stamp(recipe: Recipe) -> RecipeStamp:
    return RecipeStamp(name=recipe.name, sha256=recipe.sha256, source=str(recipe.path))


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


def _standing(planned: Planned) -> Manifest | None:
    """The artifact in a target's place if it is whole and made from the same things."""
    if not planned.path.exists():
        return None
    manifest = artifact.verify(planned.path)
    weights = _weights_sha256(planned.checkpoint, manifest)
    if weights is None or manifest.build_key != planned.key(weights):
        msg = (
            f"{planned.path} was built from another checkpoint, other options or versions.\n"
            "Build it anew with --force, or elsewhere with --output."
        )
        raise RecipeError(msg)
    return manifest


def _weights_sha256(checkpoint: Checkpoint, manifest: Manifest) -> str | None:
    """What the checkpoint's weights hash to; of those still on the Hub the commit must tell."""
    if not checkpoint.remote:
        return checkpoint.sha256
    known = manifest.checkpoint
    return known.sha256 if known.revision == checkpoint.revision else None


def _one_clip(recipe: Recipe) -> str | None:
    """A recording of the recipe's data, of middling length, for an artifact's first words."""
    if recipe.data is None or recipe.data.clips is None:
        return None
    place = recipe.path.parent / recipe.data.clips
    found = place.rglob("*") if place.is_dir() else place.parent.glob("*")
    sounds = [path for path in found if path.suffix.lower() in _SOUNDS]
    sounds.sort(key=lambda path: (path.stat().st_size, path))
    return str(sounds[len(sounds) // 2].resolve()) if sounds else None
