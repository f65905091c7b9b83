"""The build: resolve everything, then build, reload and publish each artifact.

All mistakes are told before the first target is built; what stood in an artifact's place stays
until its successor is sealed and has spoken.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exporter.artifact import local_paths, provenance, store, trust
from exporter.artifact.local_paths import LocalPaths
from exporter.artifact.manifest import RECIPE, BuildFigures, BuildResult, Manifest, RecipeStamp
from exporter.build import estimate
from exporter.build.estimate import Prediction, Resources
from exporter.build.resolve import Planned, resolve
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import BusyError, DataError, IntegrityError, RecipeError
from exporter.formats.clips import list_clips
from exporter.recipe import Recipe
from exporter.recipe import read as read_recipe
from exporter.system import worker
from exporter.system.hardware import describe, installed_versions
from exporter.system.progress import Progress

# glibc raises this bound by itself, and then keeps what was freed: up to twice the memory.
_FRUGAL = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


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
    planned = _planned(recipe, output, checkpoint, targets, progress)
    kept = _kept(planned, force)
    wanted = [p for p in planned if p.path not in kept]
    estimate.require_room([p.step for p in wanted], estimate.room_at(output), _to_fetch(wanted))
    if any(p.checkpoint.remote for p in wanted):  # all is well: now gigabytes may be fetched
        planned = resolve(recipe, output, checkpoint, targets, progress)
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
) -> tuple[list[estimate.Row], Resources]:
    """Tell what `build` with the same arguments would do, a row per target; nothing is written.

    Weights that are not on this machine stay on the Hub: their shapes are enough.
    """
    planned = _planned(recipe, output, checkpoint, targets, progress)
    kept, room = _kept(planned, force), estimate.room_at(output)
    wanted = [p for p in planned if p.path not in kept]
    reasons = estimate.resource_errors([p.step for p in wanted], room, _to_fetch(wanted))
    verdicts = {p.path: estimate.verdict(reason) for p, reason in zip(wanted, reasons, strict=True)}
    rows = [
        {
            "artifact": str(p.path),
            "kind": p.kind,
            "options": p.options.model_dump(mode="json"),
            "quantization": p.quantization,
            "checkpoint": p.checkpoint.source,
            "family": p.family,
            "parameters": p.checkpoint.parameters,
            "fetch_bytes": sum(p.checkpoint.remote.values()),
            "action": "keep" if p.path in kept else "replace" if p.path.exists() else "build",
            **p.prediction.as_row(),
            **verdicts.get(p.path, estimate.verdict(None)),
        }
        for p in planned
    ]
    return rows, room


def _planned(
    recipe: Recipe,
    output: Path,
    checkpoint: str | None,
    targets: Sequence[str],
    progress: Progress,
) -> list[Planned]:
    """Resolve a recipe, its weights left on the Hub where the decision does not need them.

    What stands in a place is known by the commit it was made from. An adapter's commit says nothing
    of its base, so there the weights must be compared.
    """
    planned = resolve(recipe, output, checkpoint, targets, progress, weights=False)
    if any(p.checkpoint.remote and p.checkpoint.settings and p.path.exists() for p in planned):
        return resolve(recipe, output, checkpoint, targets, progress)
    return planned


def _to_fetch(planned: Sequence[Planned]) -> int:
    """Bytes that are still on the Hub; all targets are of one checkpoint."""
    return max((sum(p.checkpoint.remote.values()) for p in planned), default=0)


def _kept(planned: Sequence[Planned], force: bool) -> dict[Path, Manifest]:
    """The artifacts that stand already, made from the same things, and need no build."""
    standing = {} if force else {p.path: _standing(p) for p in planned}
    return {path: manifest for path, manifest in standing.items() if manifest is not None}


def _build_one(planned: Planned, progress: Progress, *, fresh: bool) -> BuiltArtifact:
    """Build one target aside, seal it, let it speak, and put it in its place.

    `fresh` builds anew what an earlier build has left in the cache.
    """
    name, recipe, checkpoint = planned.path.name, planned.recipe, planned.checkpoint
    identity = checkpoint.sha256  # before the weights are read, so that it cannot be of later ones
    foretold = planned.prediction.seconds + planned.prediction.reload_seconds
    started, end = datetime.now(UTC), time.monotonic() + foretold

    def told(what: str, done: float | None) -> None:
        left = end - time.monotonic()
        hint = f" (about {left:.0f} s left)" if done is None and left >= 1 else ""
        progress(f"{name}: {what}{hint}", done)

    told("starting", None)
    with store.stage(planned.path) as folder:
        standing = None if fresh else _standing(planned)
        if standing is not None:  # somebody else was faster
            return BuiltArtifact(planned.path, standing, planned.prediction)
        request = {
            "checkpoint": str(checkpoint.folder.resolve()),
            "allow_pickle": recipe.allow_pickle,
            "kind": planned.kind,
            "options": planned.options.model_dump(mode="json"),
            "quantization": planned.plan.as_data(),
            "folder": str(folder.resolve()),
            "fresh": fresh,
        }
        answer = worker.run(
            "exporter.build.worker_steps:build_target",
            request,
            told,
            what=name,
            environment=_FRUGAL,
        )
        for file, path in checkpoint.companions.items():
            if not (folder / file).exists():  # a target may have something to add
                shutil.copyfile(path, folder / file)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        manifest = store.seal(folder, _manifest(planned, planned.key(identity), answer))
        local_paths.write(folder, _places(planned))
        spoken = {
            "folder": str(folder.resolve()),
            "decoding": recipe.decoding.model_dump(mode="json"),
            "clip": _one_clip(recipe),
        }
        reload = worker.run("exporter.build.worker_steps:smoke_test", spoken, told, what=name)
        provenance.write(folder, manifest, recipe, _asked(planned), started)
        trust.record(manifest)
        store.publish(folder, planned.path)
    return BuiltArtifact(planned.path, manifest, planned.prediction, reload)


def _manifest(planned: Planned, key: str, answer: dict[str, Any]) -> Manifest:
    recipe = planned.recipe
    outcome = BuildResult.model_validate({name: answer[name] for name in BuildResult.model_fields})
    return Manifest(
        name=recipe.name,
        kind=planned.kind,
        family=planned.family,
        options=outcome.options,
        recipe=_stamp(recipe),
        checkpoint=planned.checkpoint.origin,
        needs=outcome.needs,
        versions=installed_versions(),
        machine=describe().as_dict(),
        build=BuildFigures(
            seconds=answer["seconds"],
            peak_rss_bytes=answer["peak_rss_bytes"],
            predicted=planned.prediction.for_manifest(),
        ),
        build_key=key,
        choices=outcome.choices,
        quantization=outcome.quantization,
    )


def _with_terms(planned: Planned, manifest: Manifest) -> Manifest:
    """A kept artifact under the recipe's decoding, data and gate: where they changed, sealed anew.

    `validate` judges by the sealed recipe, and `push` publishes it, unless it names paths of this
    machine. The files are copied as they are; a report that was made before is left behind.
    """
    started, recipe, terms = datetime.now(UTC), planned.recipe, {"decoding", "data", "gate"}
    sealed = read_recipe(planned.path / RECIPE)
    same = sealed.model_dump(include=terms) == recipe.model_dump(include=terms)
    if same and not (sealed.absolute_paths and not recipe.absolute_paths):
        return manifest
    with store.stage(planned.path) as folder:
        if store.read_manifest(planned.path) != manifest:
            msg = f"{planned.path} was rebuilt meanwhile: run the command again"
            raise BusyError(msg)
        for file in manifest.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(planned.path / file.path, folder / file.path)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        renewed = store.seal(folder, manifest.model_copy(update={"recipe": _stamp(recipe)}))
        local_paths.write(folder, _places(planned))
        if {file.path for file in set(renewed.files) ^ set(manifest.files)} - {RECIPE}:
            msg = f"{planned.path} changed while it was copied: build it again with --force"
            raise IntegrityError(msg)
        provenance.write(folder, renewed, recipe, _asked(planned), started, manifest)
        if trust.built_here(manifest):  # what came from elsewhere stays what it is
            trust.record(renewed)
        store.publish(folder, planned.path)
    return renewed


def _stamp(recipe: Recipe) -> RecipeStamp:
    return RecipeStamp(name=recipe.name, sha256=recipe.sha256, source=recipe.path.name)


def _asked(planned: Planned) -> dict[str, Any]:
    """The target as the recipe has it, every option told."""
    name, options = planned.path.name, planned.options.model_dump(mode="json")
    spec = next(spec for spec in planned.recipe.targets if spec.name == name)
    own = spec.model_dump(mode="json", include={"quantization"}, exclude_none=True)
    return {"kind": planned.kind, "name": name, **options, **own}


def _places(planned: Planned) -> LocalPaths:
    return LocalPaths(recipe=str(planned.recipe.path), checkpoint=planned.checkpoint.source)


def _standing(planned: Planned) -> Manifest | None:
    """The artifact in a target's place if it is whole and made from the same things."""
    if not planned.path.exists():
        return None
    manifest = store.verify(planned.path)
    weights = _weights_sha256(planned.checkpoint, manifest)
    if weights is None or manifest.build_key != planned.key(weights):
        msg = (
            f"{planned.path} was built from another checkpoint, other options or versions.\n"
            "Rebuild it with --force, or choose another --output."
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
    """The first recording of the recipe's data in which something is said, if it is at hand."""
    if recipe.data is None or recipe.data.clips is None:
        return None
    try:
        clips = list_clips(recipe.path.parent / recipe.data.clips)
        spoken = next((clip for clip in clips if clip.text.strip()), None)
    except DataError:  # a build needs no data; `validate` says what is wrong with them
        return None
    return str(spoken.path.resolve()) if spoken else None
