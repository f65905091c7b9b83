"""Damage in compiled packages, and in their descriptions."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.formats import pt2
from tests.damage.grounds import GROUNDS, ROOT, WORK, prepare
from tests.damage.native import place_of
from tests.damage.planting import Change, Registry

PLANTS = Registry()


def compiled(name: str) -> Change:
    """Return a change to packages of a changed model, under this artifact's weights and configs."""

    def change(folder: Path) -> None:
        place = WORK / "native" / name
        built = place.joinpath(*place_of(name))
        if not built.exists():
            command = [sys.executable, "-m", "tests.damage.native", name, str(place)]
            subprocess.run(command, cwd=ROOT, check=True)
        for package in folder.glob("*.pt2"):
            shutil.copyfile(built / package.name, package)

    return change


def spec(package: str, edit: Callable[[dict[str, Any]], object]) -> Change:
    """Return a change of a package's description, beside unchanged native code."""

    def change(folder: Path) -> None:
        path = folder / f"{package}.pt2"
        with zipfile.ZipFile(path) as old:
            members = [(info, old.read(info)) for info in old.infolist()]
        with zipfile.ZipFile(path, "w") as new:
            for info, data in members:
                if info.filename.partition("/")[2] == pt2.SPEC:
                    values = json.loads(data)
                    edit(values)
                    data = json.dumps(values, indent=1).encode()
                new.writestr(info, data)

    return change


def _swap_constants(values: dict[str, Any], one: str, other: str) -> None:
    """Two weights of one shape under each other's names."""
    found = {
        constant["name"]: constant
        for constant in values["constants"].values()
        if constant["name"].endswith((one, other))
    }
    first, second = found.values()
    first["name"], second["name"] = second["name"], first["name"]


def _swap_inputs(values: dict[str, Any]) -> None:
    """The token and its position change places."""
    names = list(values["inputs"])
    one, other = names.index("input_ids"), names.index("position")
    names[one], names[other] = names[other], names[one]
    values["inputs"] = {name: values["inputs"][name] for name in names}


def _fixed_rows(values: dict[str, Any]) -> None:
    """The rows are one only."""
    for side in ("inputs", "outputs"):
        for tensor in values[side].values():
            tensor["shape"] = [1 if axis == "rows" else axis for axis in tensor["shape"]]


def _other_package(folder: Path) -> None:
    """The packages of an original of another shape."""
    prepare(GROUNDS["english"], ["aoti"])
    for package in folder.glob("*.pt2"):
        shutil.copyfile(GROUNDS["english"].artifact("aoti") / package.name, package)


def _cut_library(folder: Path) -> None:
    """A library that was cut in the middle."""
    path = folder / "decoder.pt2"
    with zipfile.ZipFile(path) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for info, data in members:
            cut = info.filename.partition("/")[2] == pt2.LIBRARY
            new.writestr(info, data[: len(data) // 3] if cut else data)


add = PLANTS.add
add("native-epsilon", "tiny/aoti", "subtle", "faithful|decoder|encoder", compiled("epsilon"))
add("native-activation", "tiny/aoti", "subtle", "faithful|decoder", compiled("activation"))
add("native-scaling", "tiny/aoti", "medium", "faithful|decoder", compiled("scaling"))
add("native-positions", "tiny/aoti", "severe", "faithful|positions|decoder", compiled("positions"))
add("native-late-positions", "tiny/aoti", "latent", "positions", compiled("late-positions"))
add("native-deaf", "tiny/aoti", "medium", "window|inputs|faithful|encoder", compiled("deaf"))
add(
    "spec-weights-swapped",
    "tiny/aoti",
    "severe",
    "faithful|decoder|spec",
    spec(
        "decoder",
        lambda v: _swap_constants(v, "0.self_attn.q_proj.weight", "1.self_attn.q_proj.weight"),
    ),
)
add(
    "spec-scales-swapped",
    "tiny/aoti",
    "medium",
    "faithful|encoder|spec",
    spec(
        "encoder",
        lambda v: _swap_constants(v, "encoder.layers.0.fc1.scale", "encoder.layers.1.fc1.scale"),
    ),
)
add(
    "spec-inputs-swapped",
    "tiny/aoti",
    "severe",
    "spec|decoder|input_ids|position",
    spec("decoder", _swap_inputs),
)
add("spec-rows-one", "tiny/aoti", "latent", "batch|beams|rows", spec("decoder", _fixed_rows))
add("package-of-another-shape", "tiny/aoti", "severe", "encoder|decoder", _other_package)
add("package-library-cut", "tiny/aoti", "severe", "decoder.pt2", _cut_library)
