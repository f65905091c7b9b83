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

from exporter import artifact, child
from exporter.artifact import BuildFigures, Manifest, Needs, RecipeStamp
from exporter.checkpoint import Checkpoint, open_checkpoint, read_json
from exporter.errors import RecipeError, ResourceError
from exporter.families import FAMILIES, family_name
from exporter.machine import describe
from exporter.progress import Progress
from exporter.quantize import check_fit
from exporter.recipe import Recipe
from exporter.runtime import RECIPE, installed_versions
from exporter.source import nearest
from exporter.targets import TARGETS

_SPARE_BYTES = 64 << 20
_SOUNDS = (".flac", ".wav", ".ogg", ".mp3")


@dataclass(frozen=True)
class BuiltArtifact:
    """A sealed artifact; `reused` when it stood there already, made from the very same things."""

    path: Path
    manifest: Manifest
    reused: bool


@dataclass(frozen=True)
class Planned:
    """One target with everything resolved. `key` identifies what it is made from."""

    kind: str
    path: Path
    options: BaseModel
    family: str
    key: str


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

    An artifact made from the same checkpoint, options and versions is verified and kept; another
    one in its place is an error unless `force`.
    """
    opened, planned = _resolve(recipe, output, checkpoint, targets)
    reused = {} if force else {p.path: m for p in planned if (m := _standing(p)) is not None}
    _require_disk(opened, output, len(planned) - len(reused))
    return [
        BuiltArtifact(p.path, reused[p.path], reused=True)
        if p.path in reused
        else BuiltArtifact(p.path, _build_one(recipe, opened, p, progress), reused=False)
        for p in planned
    ]


def plan(
    recipe: Recipe,
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
) -> list[dict[str, Any]]:
    """Tell what `build` with the same arguments would do, a row per target; nothing is written."""
    opened, planned = _resolve(recipe, output, checkpoint, targets)
    return [
        {
            "artifact": str(p.path),
            "kind": p.kind,
            "options": p.options.model_dump(mode="json"),
            "checkpoint": opened.source,
            "family": p.family,
            "parameters": opened.parameters,
            "action": "keep" if not force and _standing(p) else "build",
        }
        for p in planned
    ]


def _resolve(
    recipe: Recipe, output: Path, checkpoint: str | None, targets: Sequence[str]
) -> tuple[Checkpoint, list[Planned]]:
    """Check a recipe against its checkpoint and this machine; nothing is written."""
    chosen = _chosen(recipe, targets)
    options = {index: _options(recipe, index) for index in chosen}
    if recipe.data and recipe.data.clips:
        clips = recipe.path.parent / recipe.data.clips
        if not clips.exists():
            raise recipe.error(("data", "clips"), f"there is nothing at {clips}")
    opened = open_checkpoint(
        checkpoint or recipe.checkpoint, Path() if checkpoint else recipe.path.parent
    )
    name = family_name(opened.config)
    family = FAMILIES[name]
    skeleton = family.skeleton(opened.config)
    check_fit(opened, skeleton, family.TIED)
    family.check_processor(opened.folder, opened.config)
    generation = read_json(opened.folder / "generation_config.json")
    try:
        family.check_decoding(generation, recipe.decoding)
    except RecipeError as error:
        raise recipe.error(("decoding",), str(error)) from None
    planned = []
    for index, chosen_options in options.items():
        spec = recipe.targets[index]
        try:
            TARGETS[spec.kind].check(chosen_options, skeleton, family)
        except RecipeError as error:
            raise recipe.error(("targets", index), str(error)) from None
        key = _key(recipe, opened, spec.kind, chosen_options)
        path = output / recipe.name / spec.name
        if path.is_symlink() or (path.exists() and not (path / artifact.MANIFEST).is_file()):
            msg = f"{path} is in the way and is not an artifact: move it, or choose --output"
            raise RecipeError(msg)
        planned.append(Planned(spec.kind, path, chosen_options, name, key))
    return opened, planned


def _build_one(
    recipe: Recipe, checkpoint: Checkpoint, planned: Planned, progress: Progress
) -> Manifest:
    """Build one target aside, seal it, let it speak, and put it in its place."""
    name = planned.path.name

    def told(what: str, done: float | None) -> None:
        progress(f"{name}: {what}", done)

    told("starting", None)
    with artifact.stage(planned.path) as folder:
        request = {
            "checkpoint": str(checkpoint.folder.resolve()),
            "kind": planned.kind,
            "options": planned.options.model_dump(mode="json"),
            "folder": str(folder.resolve()),
        }
        answer = child.run("exporter.steps:build_target", request, told, what=name)
        for file in checkpoint.companions:
            shutil.copyfile(checkpoint.folder / file, folder / file)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        manifest = artifact.seal(folder, _manifest(recipe, checkpoint, planned, answer))
        spoken = {
            "folder": str(folder.resolve()),
            "decoding": recipe.decoding.model_dump(mode="json"),
            "clip": _one_clip(recipe),
        }
        child.run("exporter.steps:speak", spoken, told, what=name)
        artifact.publish(folder, planned.path)
    return manifest


def _manifest(
    recipe: Recipe, checkpoint: Checkpoint, planned: Planned, answer: dict[str, Any]
) -> Manifest:
    return Manifest(
        name=recipe.name,
        kind=planned.kind,
        family=planned.family,
        options=planned.options.model_dump(mode="json"),
        recipe=RecipeStamp(
            name=recipe.name,
            sha256=recipe.sha256,
            source=str(recipe.path),
        ),
        checkpoint=checkpoint.origin,
        needs=Needs(cpu_features=answer["cpu_features"], packages=answer["packages"]),
        versions=installed_versions(),
        machine=describe().as_dict(),
        build=BuildFigures(seconds=answer["seconds"], peak_rss_bytes=answer["peak_rss_bytes"]),
        build_key=planned.key,
    )


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


def _key(recipe: Recipe, checkpoint: Checkpoint, kind: str, options: BaseModel) -> str:
    """Identify what an artifact is made from: weights, options, versions, and how it is judged."""
    parts = {
        "recipe": recipe.model_dump(mode="json", include={"decoding", "data", "gate"}),
        "checkpoint": checkpoint.sha256,
        "kind": kind,
        "options": options.model_dump(mode="json"),
        "versions": installed_versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _standing(planned: Planned) -> Manifest | None:
    """The artifact in a target's place if it is whole and made from the same things."""
    if not planned.path.exists():
        return None
    manifest = artifact.verify(planned.path)
    if manifest.build_key != planned.key:
        msg = (
            f"{planned.path} was built from another recipe, checkpoint or version.\n"
            "Build it anew with --force, or elsewhere with --output."
        )
        raise RecipeError(msg)
    return manifest


def _require_disk(checkpoint: Checkpoint, output: Path, builds: int) -> None:
    """Refuse to start where the artifacts could not be written to the end."""
    place = output
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = builds * (checkpoint.size_bytes + _SPARE_BYTES)
    if free < needed:
        msg = (
            f"{place} has {free >> 20} MiB free; a build of this checkpoint needs up to "
            f"{needed >> 20} MiB.\nFree some, or choose another --output."
        )
        raise ResourceError(msg)


def _one_clip(recipe: Recipe) -> str | None:
    """A recording of the recipe's data, of middling length, for an artifact's first words."""
    if recipe.data is None or recipe.data.clips is None:
        return None
    place = recipe.path.parent / recipe.data.clips
    found = place.rglob("*") if place.is_dir() else place.parent.glob("*")
    sounds = [path for path in found if path.suffix.lower() in _SOUNDS]
    sounds.sort(key=lambda path: (path.stat().st_size, path))
    return str(sounds[len(sounds) // 2].resolve()) if sounds else None
