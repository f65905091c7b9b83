"""Complete artifacts of an earlier release whose files are changed, and that are sealed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.artifact.manifest import MANIFEST, Manifest
from tests.support.golden import GOLDEN


def resealed(kind: str, folder: Path, change: Callable[[Path], object]) -> Path:
    """Copy a golden artifact, change it, and seal what it is then; returns `folder`."""
    shutil.copytree(GOLDEN / f"v1-{kind}", folder, dirs_exist_ok=True)
    sealed = store.read_manifest(folder).model_copy(update={"files": ()})
    for path in folder.iterdir():
        if path.name in store.SIDECAR_FILES:
            path.unlink()
    change(folder)
    store.seal(folder, sealed)
    return folder


def write_manifest(folder: Path, values: dict[str, Any]) -> None:
    """Write a manifest in the form of ours, whatever its values."""
    text = json.dumps(values, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    Manifest.model_validate_json(json.dumps(values))
    return values
