"""The paths of an artifact's recipe and checkpoint on the machine that built it.

Apart from the manifest, because a machine's paths are private and must not change the digest. The
file is never pushed; without it, `--reference` and `--data` name the paths.
"""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from exporter.artifact.manifest import Manifest
from exporter.system.files import read_small, write_atomic

PLACES = "places.json"
_MAX_BYTES = 64 << 10


class LocalPaths(BaseModel):
    """Paths as given to `build`: the recipe's file, and the checkpoint's folder or Hub id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    checkpoint: str


def write(folder: Path, places: LocalPaths) -> None:
    """Write the paths beside a manifest."""
    text = json.dumps(places.model_dump(), indent=1)  # in ASCII, since paths need not be UTF-8
    write_atomic(folder / PLACES, text.encode() + b"\n")


def read(folder: Path, manifest: Manifest) -> LocalPaths:
    """Return the paths of an artifact; without a readable file, the names in its manifest."""
    path = folder / PLACES
    try:
        data = read_small(path, _MAX_BYTES, ValueError, "a note of paths")
        return LocalPaths.model_validate(json.loads(data))
    except (OSError, ValueError, RecursionError):
        # Harmless: what the paths lead to is compared by hash.
        return LocalPaths(recipe=manifest.recipe.source, checkpoint=manifest.checkpoint.source)
