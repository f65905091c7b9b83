"""What a plant is, and how it gets into a copy of an artifact that is then sealed again."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporter.artifact import store
from exporter.artifact.manifest import MANIFEST, RECIPE, Manifest
from exporter.recipe import read as read_recipe

Severity = Literal["severe", "medium", "subtle", "latent"]
SEVERITIES: tuple[Severity, ...] = ("severe", "medium", "subtle", "latent")
Change = Callable[[Path], object]

# Sidecars that go with a copy: the paths of its recipe and original on this machine.
_PLACES = "places.json"


@dataclass(frozen=True)
class Plant:
    """One kind of damage in one artifact.

    Attributes:
        name: Its name, which is the folder of the damaged copy.
        ground: The checkpoint and corpus: see `tests.damage.grounds`.
        artifact: The artifact of that ground to damage, by its target's name.
        severity: What it does to users. severe: most texts are wrong, or it does not load or run;
            medium: some texts are wrong, or it is much slower or larger, or refuses inputs; subtle:
            the numbers are off by more than rounding, and texts seldom change; latent: nothing that
            the corpus can show, such as other batches, beams, positions or loaders.
        cause: Words of which a message that leads to the cause has at least one: a tensor, a file,
            a key, or a check that asks for nothing else.
        change: Damages a copy's files; sealed afterwards.
        manifest: Changes the fields of its manifest, if that is where the damage is.
        data: Damages a copy of the corpus, if that is where it is.
        reference: The original to compare with, relative to the work folder, if not its own.
    """

    name: str
    ground: str
    artifact: str
    severity: Severity
    cause: tuple[str, ...]
    change: Change = lambda _folder: None
    manifest: Callable[[dict[str, Any]], object] | None = None
    data: Change | None = None
    reference: str | None = None

    @property
    def target(self) -> str:
        """The kind of target, for the table."""
        kinds = {"onnx": "onnx-int8", "torch": "torch-int8", "aoti": "aoti"}
        return kinds[self.artifact.partition("-")[0]]


def plant(original: Path, folder: Path, planted: Plant) -> Path:
    """Copy an artifact, damage the copy, seal it honestly; return `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    sealed = store.read_manifest(folder)
    for path in folder.iterdir():
        if path.name in store.SIDECAR_FILES and path.name != MANIFEST:
            path.unlink()
    planted.change(folder)  # which may read the manifest
    (folder / MANIFEST).unlink()
    reseal(folder, sealed, planted.manifest)
    if (original / _PLACES).exists():  # where the original and its clips are: never sealed
        shutil.copyfile(original / _PLACES, folder / _PLACES)
    return folder


def reseal(
    folder: Path, sealed: Manifest, change: Callable[[dict[str, Any]], object] | None = None
) -> None:
    """Seal a folder as it is now, with the manifest it had but for the files and the recipe."""
    values = sealed.model_copy(update={"files": ()}).model_dump(mode="json")
    values["recipe"]["sha256"] = read_recipe(folder / RECIPE).sha256
    if change is not None:
        change(values)
    store.seal(folder, Manifest.model_validate_json(json.dumps(values)))
    assert (folder / MANIFEST).is_file()


@contextmanager
def editing(path: Path) -> Iterator[Any]:
    """Edit a JSON file in place."""
    values = json.loads(path.read_text(encoding="utf-8"))
    yield values
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def replacing(path: Path, old: str, new: str) -> None:
    """Replace text in a file that has it."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} has no {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


class Registry:
    """The plants of one module, in order."""

    def __init__(self) -> None:
        self.plants: list[Plant] = []

    def add(
        self,
        name: str,
        where: str,
        severity: Severity,
        cause: str,
        change: Change = lambda _folder: None,
        **more: Any,
    ) -> None:
        """Add a plant: `where` is `ground/artifact`, `cause` its words, divided by `|`."""
        ground, _, artifact = where.partition("/")
        words = tuple(word.strip() for word in cause.split("|"))
        self.plants.append(Plant(name, ground, artifact, severity, words, change, **more))
