"""Tiny artifacts that are really built, to be damaged and sealed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.artifact.manifest import Manifest
from exporter.build.pipeline import build
from exporter.recipe import read
from exporter.system.progress import silent
from tests.support.in_process import steps_in_process

Change = Callable[[Path], object]


def build_tiny(folder: Path, checkpoint: Path, targets: str, more: str = "") -> dict[str, Path]:
    """Build the targets of a recipe in this process; return the artifacts by name."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"name: tiny\ncheckpoint: {checkpoint}\ntargets: {targets}\n{more}")
    with steps_in_process():
        built = build(read(recipe), output=folder / "artifacts", progress=silent)
    return {each.path.name: each.path for each in built}


def damaged(artifact: Path, place: Path, change: Change, **manifest: Any) -> Path:
    """Copy an artifact to `place`, change its files and its manifest, and seal it honestly."""
    shutil.copytree(artifact, place, dirs_exist_ok=True)
    sealed: Manifest = store.read_manifest(place)
    for name in store.SIDECAR_FILES:
        (place / name).unlink(missing_ok=True)
    change(place)
    store.seal(place, sealed.model_copy(update={"files": (), **manifest}))
    if (artifact / "places.json").exists():
        shutil.copyfile(artifact / "places.json", place / "places.json")
    return place


def edit(name: str, **values: Any) -> Change:
    """Return a change of the keys of a JSON file; a value of None removes one."""

    def change(folder: Path) -> None:
        told = json.loads((folder / name).read_text(encoding="utf-8")) | values
        kept = {key: value for key, value in told.items() if key not in values or value is not None}
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")

    return change
