"""The build: resolve everything, then build, reload and publish each artifact.

All mistakes are reported before the first target is built. A previous artifact stays in its place
until its successor is sealed and has decoded one recording. What is built for a card decodes one
where such a card is; elsewhere it is published untried, and said to be.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from exporter.artifact import build_registry, local_paths, provenance, store
from exporter.artifact.local_paths import LocalPaths
from exporter.artifact.manifest import RECIPE, BuildFigures, BuildResult, Manifest, RecipeStamp
from exporter.build import estimate
from exporter.build.calibration import Calibrated, Calibration, calibrate
from exporter.build.estimate import Prediction, Resources
from exporter.build.resolve import Planned, resolve
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import BusyError, DataError, IntegrityError, MachineError, RecipeError
from exporter.formats.audio import duration_s
from exporter.formats.clips import list_clips
from exporter.formats.clips.addresses import source_at
from exporter.formats.clips.opening import Opener
from exporter.recipe import Recipe
from exporter.recipe import read as read_recipe
from exporter.system import worker
from exporter.system.accelerators import require_device
from exporter.system.files import readable_name, require_utf8
from exporter.system.hardware import FRUGAL, describe, installed_versions
from exporter.system.progress import Progress

_log = logging.getLogger(__name__)
# The keys of a recipe that change no weight, and that `validate` and `push` read when sealed.
_TERMS = {"decoding", "data", "gate", "hub"}


@dataclass(frozen=True)
class BuiltArtifact:
    """A sealed artifact.

    Attributes:
        path: The artifact.
        manifest: Its manifest.
        prediction: The estimate before the build.
        reload: `seconds` and `peak_rss_bytes` of the first reload; None if there was none.
        untried: Why a new artifact was not loaded: this machine lacks the card it is built for.
    """

    path: Path
    manifest: Manifest
    prediction: Prediction
    reload: dict[str, Any] | None = None
    untried: str = ""

    @property
    def reused(self) -> bool:
        """True if an existing artifact was up to date, so that nothing was built."""
        return self.reload is None and not self.untried


def build(
    recipe: Recipe,
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    by_name: bool = False,
    calibrated: Mapping[Calibration, Calibrated] | None = None,
    progress: Progress,
    expect: Callable[[float], None] = lambda _seconds: None,
) -> list[BuiltArtifact]:
    """Build a recipe's targets below `output`/<recipe's name>.

    An existing artifact from the same checkpoint, options and versions is verified and reused; if
    the recipe's decoding, data, gate or hub changed, it is sealed again. Nothing is built or
    downloaded unless everything fits this machine.

    Args:
        recipe: The recipe.
        output: The folder of artifacts.
        checkpoint: A folder or Hub id in place of the recipe's.
        targets: Names or kinds of the targets to build; all if empty.
        force: Rebuild existing artifacts, and replace those from other checkpoints or options.
        by_name: Take `targets` for names only.
        calibrated: What calibrations of this checkpoint gave, which are then not run.
        progress: Receives the current step, and the fraction done where it is known.
        expect: Receives the estimated seconds of each artifact when its build begins.

    Returns:
        The artifacts in the recipe's order.

    Raises:
        RecipeError: The recipe is wrong, or another artifact is in a target's place.
        CheckpointError: The checkpoint cannot be used.
        HubError: The Hub refused, or could not be reached.
        IntegrityError: An existing artifact is damaged.
        MachineError: This machine lacks a feature or tool.
        ResourceError: Memory or disk space is too small.
        BuildError: A build failed, or an artifact decodes no text.
        BusyError: Another build writes to the same place.
    """
    planned = _planned(recipe, output, checkpoint, targets, progress, by_name)
    reusable = _reusable(planned, force)
    wanted = [p for p in planned if p.path not in reusable]
    estimate.require_room([p.step for p in wanted], estimate.room_at(output), _to_fetch(wanted))
    clip = _one_clip(recipe) if wanted else None
    if any(p.checkpoint.remote for p in wanted):  # everything fits: download the weights
        planned = resolve(recipe, output, checkpoint, targets, progress, by_name=by_name)
    planned = _calibrated(planned, reusable, calibrated or {}, progress, fresh=force)
    return [
        BuiltArtifact(p.path, _with_terms(p, reusable[p.path]), p.prediction)
        if p.path in reusable
        else _build_one(p, clip, progress, expect, fresh=force)
        for p in planned
    ]


def check(
    recipe: Recipe,
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    here: bool = True,
    progress: Progress,
) -> list[Planned]:
    """Raise what `build` with the same arguments would raise before it builds anything.

    Args:
        recipe: The recipe.
        output: The folder of artifacts.
        checkpoint: A folder or Hub id in place of the recipe's.
        targets: Names or kinds of the targets to build; all if empty.
        force: Rebuild existing artifacts.
        here: Whether this machine builds, so that everything must fit it.
        progress: Receives the current step.

    Returns:
        The targets in the recipe's order.

    Raises:
        ExporterError: As `build`.
    """
    planned = _planned(recipe, output, checkpoint, targets, progress)
    reusable = _reusable(planned, force)
    wanted = [p for p in planned if p.path not in reusable]
    room = estimate.room_at(output)
    for shortage in estimate.resource_errors([p.step for p in wanted], room, _to_fetch(wanted)):
        if isinstance(shortage, RecipeError) or (shortage and here):
            raise shortage
    return planned


def dry_run(
    recipe: Recipe,
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    progress: Progress,
) -> tuple[list[estimate.Row], Resources]:
    """Plan what `build` would do with the same arguments; no artifact is written.

    Weights that are not on this machine stay on the Hub, since only their shapes are needed.

    Args:
        recipe: The recipe.
        output: The folder of artifacts.
        checkpoint: A folder or Hub id in place of the recipe's.
        targets: Names or kinds of the targets to build; all if empty.
        force: Plan to rebuild existing artifacts.
        progress: Receives the current step.

    Returns:
        A row for each target, and the free memory and disk space.

    Raises:
        RecipeError: The recipe is wrong, or another artifact is in a target's place.
        CheckpointError: The checkpoint cannot be used.
        HubError: The Hub refused, or could not be reached.
        IntegrityError: An existing artifact is damaged.
    """
    planned = _planned(recipe, output, checkpoint, targets, progress)
    reusable, room = _reusable(planned, force), estimate.room_at(output)
    wanted = [p for p in planned if p.path not in reusable]
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
            "action": "keep" if p.path in reusable else "replace" if p.path.exists() else "build",
            **({"calibration": str(p.calibration)} if p.calibration else {}),
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
    by_name: bool = False,
) -> list[Planned]:
    """Resolve a recipe, and leave its weights on the Hub where they are not needed yet.

    An existing artifact is compared by the commit of its checkpoint. An adapter's commit does not
    identify its base, so for adapters the weights are downloaded and hashed.
    """
    require_utf8(output, RecipeError)
    opened = partial(resolve, recipe, output, checkpoint, targets, progress, by_name=by_name)
    planned = opened(weights=False)
    if any(p.checkpoint.remote and p.checkpoint.settings and p.path.exists() for p in planned):
        return opened()
    return planned


def _calibrated(
    planned: Sequence[Planned],
    reusable: Collection[Path],
    known: Mapping[Calibration, Calibrated],
    progress: Progress,
    *,
    fresh: bool,
) -> list[Planned]:
    """Calibrate once for all targets to build that share a calibration, unless it is known."""
    modules: dict[Calibration, dict[str, None]] = {}
    for each in planned:
        if each.calibration is None or each.calibration in known:
            continue
        if each.path not in reusable:
            modules.setdefault(each.calibration, {}).update(dict.fromkeys(each.plan.calibrated))
    found = dict(known)
    for calibration, names in modules.items():
        checkpoint, recipe = planned[0].checkpoint, planned[0].recipe
        found[calibration] = calibrate(
            calibration, list(names), checkpoint, recipe, progress, fresh=fresh
        )
    return [
        replace(each, calibrated=found.get(each.calibration)) if each.calibration else each
        for each in planned
    ]


def _to_fetch(planned: Sequence[Planned]) -> int:
    """Return the bytes still on the Hub; all targets have the same checkpoint."""
    return max((sum(p.checkpoint.remote.values()) for p in planned), default=0)


def _reusable(planned: Sequence[Planned], force: bool) -> dict[Path, Manifest]:
    """Return the manifests of existing artifacts that are up to date, by path."""
    existing = {} if force else {p.path: _existing(p) for p in planned}
    return {path: manifest for path, manifest in existing.items() if manifest is not None}


def _build_one(
    planned: Planned,
    clip: str | None,
    progress: Progress,
    expect: Callable[[float], None],
    *,
    fresh: bool,
) -> BuiltArtifact:
    """Build one target in a staged folder, seal it, decode one recording, and publish it.

    The recording is `clip`, or noise. With `fresh`, cached graphs of earlier builds are not used.
    """
    name, recipe, checkpoint = planned.path.name, planned.recipe, planned.checkpoint
    identity = checkpoint.sha256  # before the weights are read, so that no later change is missed
    started = datetime.now(UTC)
    expect(planned.prediction.seconds + planned.prediction.reload_seconds)

    def report(what: str, done: float | None) -> None:
        progress(f"{name}: {what}", done)

    report("starting", None)
    with store.stage(planned.path, planned.output) as folder:
        existing = None if fresh else _existing(planned)
        if existing is not None:  # built by another process meanwhile
            return BuiltArtifact(planned.path, existing, planned.prediction)
        request = {
            "checkpoint": str(checkpoint.folder.resolve()),
            "allow_pickle": recipe.allow_pickle,
            "language": checkpoint.language,
            "kind": planned.kind,
            "options": planned.options.model_dump(mode="json"),
            "quantization": planned.plan_to_build.as_data(),
            "folder": str(folder.resolve()),
            "fresh": fresh,
        }
        answer = worker.run(
            "exporter.build.worker_steps:build_target",
            request,
            report,
            what=name,
            environment=FRUGAL,
        )
        checkpoint.copy_companions(folder)  # but not over those that a target wrote itself
        checkpoint.copy_carried(folder)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        manifest = store.seal(folder, _manifest(planned, planned.key(identity), answer))
        local_paths.write(folder, _places(planned))
        untried, reload = _lacking(manifest), None
        if not untried:
            reload = worker.run(
                "exporter.build.smoke_test:smoke_test",
                {"folder": str(folder.resolve()), "clip": clip},
                report,
                what=name,
                environment=FRUGAL,
            )
        provenance.write(folder, manifest, recipe, _target_data(planned), started)
        build_registry.record(manifest)
        store.publish(folder, planned.path)
    return BuiltArtifact(planned.path, manifest, planned.prediction, reload, untried)


def _lacking(manifest: Manifest) -> str:
    """Return why this machine cannot try an artifact that is built for a card it lacks."""
    needs = manifest.needs
    try:
        require_device(needs.device, needs.gpu.as_needs() if needs.gpu else None, "trying it")
    except MachineError as error:
        return str(error).splitlines()[0].rstrip(".")
    return ""


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
        calibration=planned.calibrated.record if planned.calibrated else None,
        decoding=recipe.decoding.model_dump(mode="json"),
        built_on=outcome.built_on,
    )


def _with_terms(planned: Planned, manifest: Manifest) -> Manifest:
    """Return a reused artifact's manifest, sealed again if one of `_TERMS` changed.

    `validate` judges by the sealed recipe, and `push` publishes it, unless it names paths of this
    machine. The other files are copied unchanged; an existing report is not copied.
    """
    started, recipe, terms = datetime.now(UTC), planned.recipe, _TERMS
    sealed = read_recipe(planned.path / RECIPE)
    same = sealed.model_dump(include=terms) == recipe.model_dump(include=terms)
    if same and not (sealed.absolute_paths and not recipe.absolute_paths):
        return manifest
    with store.stage(planned.path, planned.output) as folder:
        if store.read_manifest(planned.path) != manifest:
            msg = f"{planned.path} was rebuilt meanwhile: run the command again"
            raise BusyError(msg)
        for file in manifest.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(planned.path / file.path, folder / file.path)
        (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
        changed = {"recipe": _stamp(recipe), "decoding": recipe.decoding.model_dump(mode="json")}
        renewed = store.seal(folder, manifest.model_copy(update=changed))
        local_paths.write(folder, _places(planned))
        if {file.path for file in set(renewed.files) ^ set(manifest.files)} - {RECIPE}:
            msg = f"{planned.path} changed while it was copied: build it again with --force"
            raise IntegrityError(msg)
        provenance.write(folder, renewed, recipe, _target_data(planned), started, manifest)
        if build_registry.built_here(manifest):  # another's must not become one built here
            build_registry.record(renewed)
        store.publish(folder, planned.path)
    return renewed


def _stamp(recipe: Recipe) -> RecipeStamp:
    return RecipeStamp(
        name=recipe.name, sha256=recipe.sha256, source=readable_name(recipe.path.name)
    )


def _target_data(planned: Planned) -> dict[str, Any]:
    """Return the target of the recipe with all defaults."""
    name, options = planned.path.name, planned.options.model_dump(mode="json")
    spec = next(spec for spec in planned.recipe.targets if spec.name == name)
    own = spec.model_dump(mode="json", include={"quantization"}, exclude_none=True)
    return {"kind": planned.kind, "name": name, **options, **own}


def _places(planned: Planned) -> LocalPaths:
    return LocalPaths(recipe=str(planned.recipe.path), checkpoint=planned.checkpoint.source)


def _existing(planned: Planned) -> Manifest | None:
    """Return the manifest of an existing, verified artifact; None if there is none.

    Raises:
        RecipeError: It is from another checkpoint, other options or versions.
    """
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
    """Return the hash of the checkpoint's weights; None if it is not known.

    Of weights on the Hub it is the manifest's, if that has the same commit.
    """
    if not checkpoint.remote:
        return checkpoint.sha256
    known = manifest.checkpoint
    return known.sha256 if known.revision == checkpoint.revision else None


def _one_clip(recipe: Recipe) -> str | None:
    """Return the path of the first local clip that has text and can be read; None without one.

    A build needs no data, so faults in it are warnings; `validate` refuses them.
    """
    if recipe.data is None or recipe.data.clips is None:
        return None
    try:
        source = source_at(recipe.path.parent, recipe.data.clips)
        if not isinstance(source, Path) or not os.path.lexists(source):
            return None
        with Opener() as opener:
            for clip in list_clips(source):
                if clip.text.strip() and duration_s(path := opener.kept(clip)):
                    return str(path.resolve())
    except DataError as error:
        _log.warning("the artifact will be tried on noise only, because of the data: %s", error)
    return None
