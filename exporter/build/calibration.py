"""Calibration in a build: the recordings that a recipe names, and the step that runs them.

It runs once for all targets with the same calibration, before they are built, in a worker process.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifact import manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import DataError
from exporter.formats.clips import chosen, list_clips
from exporter.formats.clips.addresses import resolved, source_at
from exporter.formats.clips.opening import Opener
from exporter.formats.yaml_source import Loc
from exporter.quantization.plan import QuantizationPlan
from exporter.recipe import CalibrationSpec, Quantization, Recipe
from exporter.system import worker
from exporter.system.files import sha256_file
from exporter.system.progress import Progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """The recordings of a calibration, chosen and hashed, and the method."""

    method: str
    percentile: float | None
    paths: tuple[Path, ...]
    sha256: str

    def as_data(self) -> dict[str, Any]:
        """Return what decides the ranges, besides the model."""
        percentile = {} if self.percentile is None else {"percentile": self.percentile}
        return {
            "method": self.method,
            **percentile,
            "clips": len(self.paths),
            "sha256": self.sha256,
        }

    def __str__(self) -> str:
        """Return the method and the number of recordings, for users."""
        method = self.method if self.percentile is None else f"{self.method} {self.percentile:g}"
        return f"{method} on {len(self.paths)} clips"


@dataclass(frozen=True)
class Calibrated:
    """The ranges of modules' inputs, and the manifest's entry for what calibrated them."""

    ranges: Mapping[str, tuple[float, float]]
    record: manifest.Calibration


def plan_calibrations(
    recipe: Recipe, plans: Mapping[int, QuantizationPlan]
) -> dict[int, Calibration]:
    """Choose and hash the recordings for each target that has modules to calibrate.

    A target's own `quantization` may have a `calibration`; the recipe's is the default.

    Args:
        recipe: The recipe.
        plans: The plan of each target, by its index in the recipe.

    Returns:
        The calibration of each target that needs one, by index.

    Raises:
        RecipeError: A target needs a calibration and has none, or one is not needed.
        DataError: The recordings cannot be listed.
    """
    places = {index: place_of(recipe, index) for index in plans}
    used = {places[index][0] for index, plan in plans.items() if plan.calibrated}
    for index, plan in plans.items():
        loc, spec = places[index]
        if plan.calibrated and spec is None:
            msg = (
                "`static-int8` needs recordings to calibrate on: add `calibration: {clips: FOLDER}`"
                " to `quantization`, with other clips than those of `data`"
            )
            raise recipe.error(loc, msg)
        sharing = {n for n in range(len(recipe.targets)) if place_of(recipe, n)[0] == loc}
        if spec is not None and loc not in used and sharing <= plans.keys():
            msg = "no module is `static-int8`, so there is nothing to calibrate: leave it out"
            raise recipe.error(loc, msg, of_key=True)
    made = {
        loc: _chosen(recipe, loc, spec) for loc, spec in places.values() if spec and loc in used
    }
    return {index: made[places[index][0]] for index, plan in plans.items() if plan.calibrated}


def place_of(recipe: Recipe, index: int) -> tuple[Loc, CalibrationSpec | None]:
    """Return where a target's calibration is written, or should be, and what it is.

    Args:
        recipe: The recipe.
        index: The target's index.
    """
    rules: list[tuple[Loc, Quantization | None]] = [
        (("targets", index, "quantization"), recipe.targets[index].quantization),
        (("quantization",), recipe.quantization),
    ]
    written = [(loc, each) for loc, each in rules if each is not None]
    for loc, each in written:
        if each.calibration is not None:
            return (*loc, "calibration"), each.calibration
    return (written[0][0] if written else ("targets", index)), None


def _chosen(recipe: Recipe, loc: Loc, spec: CalibrationSpec) -> Calibration:
    source = source_at(recipe.path.parent, spec.clips)
    if isinstance(source, Path) and not source.exists():
        raise recipe.error((*loc, "clips"), f"there is nothing at {source}")
    clips = list(list_clips(source))
    if not clips:
        msg = f"{source} has no clips to calibrate on"
        raise DataError(msg)
    judged = recipe.data.clips if recipe.data else None
    if judged and resolved(source_at(recipe.path.parent, judged)) == resolved(source):
        _log.warning(
            "calibration.clips are those of `data`, which judge the artifact too: an honest gate "
            "needs other recordings"
        )
    with Opener() as opener:
        some = [clips[n] for n in chosen(len(clips), spec.count, spec.seed)]
        paths = tuple(opener.kept(clip).resolve() for clip in some)
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{sha256_file(path)}\n".encode())
    percentile = spec.percentile if spec.method == "percentile" else None
    return Calibration(spec.method, percentile, paths, whole.hexdigest())


def calibrate(
    calibration: Calibration,
    modules: Sequence[str],
    checkpoint: Checkpoint,
    recipe: Recipe,
    progress: Progress,
    *,
    fresh: bool,
) -> Calibrated:
    """Run the float original on the recordings, in a worker process, or take the cached ranges.

    Args:
        calibration: The recordings and the method.
        modules: The modules whose inputs' ranges are wanted.
        checkpoint: The checkpoint, with its weights on this machine.
        recipe: The recipe, for how the original decodes.
        progress: Receives the current step.
        fresh: Run even if the ranges are cached.

    Raises:
        BuildError: An input of a module is not finite, or a module did not run.
        DataError: A recording cannot be read.
    """
    request = {
        "checkpoint": str(checkpoint.folder.resolve()),
        "checkpoint_sha256": checkpoint.sha256,
        "allow_pickle": recipe.allow_pickle,
        "decoding": recipe.decoding.model_dump(mode="json"),
        "calibration": calibration.as_data(),
        "clips": [str(path) for path in calibration.paths],
        "modules": list(modules),
        "fresh": fresh,
    }
    step = "exporter.build.worker_steps:calibrate"
    answer = worker.run(step, request, progress, what="the calibration")
    ranges = {name: (low, high) for name, (low, high) in answer["ranges"].items()}
    record = manifest.Calibration(**calibration.as_data(), seconds=round(answer["audio_s"], 2))
    return Calibrated(ranges, record)
