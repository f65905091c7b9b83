"""The folder of a search: one file for each finished step, so that an interrupted search goes on.

It belongs to one recipe, checkpoint, set of clips and versions: with others, it is emptied first.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from exporter.errors import BusyError, RecipeError
from exporter.system.files import FileLock, make_folder, remove, write_atomic

_KEY, _LOCK, _BUILT = "key.json", "lock", "artifacts"
Kept = TypeVar("Kept", bound=BaseModel)


def folder_of(output: Path) -> Path:
    """Return the folder of the search whose recipe is written to `output`."""
    return output.with_name(f".tune-{output.stem}")


class Work:
    """The open folder: results by name, and the place of artifacts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built = folder / _BUILT

    def read(self, name: str, kind: type[Kept]) -> Kept | None:
        """Return a finished step's result; None if there is none, or another version wrote it."""
        try:
            return kind.model_validate_json(self._path(name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, name: str, result: BaseModel) -> None:
        """Keep the result of a finished step."""
        write_atomic(self._path(name), result.model_dump_json(indent=1).encode())

    def count(self, beginning: str) -> int:
        """Return how many results have names that begin so."""
        return sum(1 for _ in self.folder.glob(f"{beginning}*.json"))

    def clear_artifacts(self) -> None:
        """Remove the artifacts of trials: what is known of them is in their results."""
        if self.built.exists():
            remove(self.built)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


@contextmanager
def opened(folder: Path, key: Mapping[str, Any]) -> Iterator[Work]:
    """Open the folder of a search, and remove its artifacts at the end.

    Args:
        folder: The folder, made if it is missing.
        key: What the search depends on, as data; results under another key are removed.

    Raises:
        BusyError: Another search holds it.
        RecipeError: It cannot be written.
    """
    try:
        make_folder(folder)
        with FileLock(folder / _LOCK, wait=False):
            work = Work(folder)
            _renew(work, json.dumps(key, sort_keys=True).encode())
            try:
                yield work
            finally:
                work.clear_artifacts()
    except BlockingIOError:
        msg = f"another search is at work in {folder}: wait for it, or give another --output"
        raise BusyError(msg) from None
    except PermissionError as error:
        msg = f"{folder} cannot be written ({error.strerror}): give --output in another folder"
        raise RecipeError(msg) from None


def _renew(work: Work, key: bytes) -> None:
    place = work.folder / _KEY
    if not place.exists() or place.read_bytes() != key:
        for path in work.folder.glob("*.json"):
            path.unlink()
        write_atomic(place, key)
    work.clear_artifacts()


def short_hash(data: object) -> str:
    """Return eight characters that tell data from other data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]
