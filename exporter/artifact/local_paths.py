"""Where an artifact's recipe and checkpoint lay on the machine that built it.

Apart from the manifest, because paths of a machine are nobody else's business and must not change
an artifact's digest. The file is never pushed; without it, `--reference` and `--data` name them.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from exporter.artifact.manifest import Manifest
from exporter.system.files import read_small, write_atomic

PLACES = "places.json"
_MAX_BYTES = 64 << 10


class LocalPaths(BaseModel):
    """Paths as they were typed: the recipe's file, and the checkpoint's folder or Hub id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    checkpoint: str


def write(folder: Path, places: LocalPaths) -> None:
    """Note the places beside a manifest."""
    write_atomic(folder / PLACES, places.model_dump_json(indent=1).encode() + b"\n")


def read(folder: Path, manifest: Manifest) -> LocalPaths:
    """The places of an artifact; where nothing tells them, the names in its manifest."""
    path = folder / PLACES
    try:
        data = read_small(path, _MAX_BYTES, ValueError, "a note of paths")
        return LocalPaths.model_validate_json(data)
    except (OSError, ValueError):  # a note of no weight: what it leads to is held to its hash
        pass
    return LocalPaths(recipe=manifest.recipe.source, checkpoint=manifest.checkpoint.source)
