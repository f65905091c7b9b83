"""Small sealed artifacts, made in a millisecond: real files, a real manifest, nothing to run.

Without torch, so that a fresh process can make one and show what is loaded after that.
"""

import json
import struct
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from exporter.artifact import store
from exporter.artifact.manifest import BuildFigures, Manifest, Origin, RecipeStamp, Requirements
from exporter.errors import ExporterError
from exporter.formats import pt2
from exporter.recognition import load

RECIPE = "name: tiny\ncheckpoint: checkpoint\ntargets:\n  - kind: aoti\ndata: {clips: .}\n"
SPEC = {"inputs": {}, "outputs": {}, "constants": {}}


def manifest(kind: str) -> Manifest:
    return Manifest(
        name="tiny",
        kind=kind,
        family="whisper",
        options={"threads": None},
        recipe=RecipeStamp(name="tiny", sha256="0" * 64, source="tiny.yaml"),
        checkpoint=Origin(source="x", revision=None, sha256="1" * 64, size_bytes=8, parameters=2),
        needs=Requirements(packages=("torch",)),
        versions={"torch": version("torch")},
        machine={"cpu": "any", "cores": 2},
        build=BuildFigures(seconds=1.5, peak_rss_bytes=3),
        build_key="2" * 64,
    )


def members(stem: str, library: bytes = b"no library") -> dict[str, bytes]:
    """What a package holds, by its full names."""
    known = {pt2.SPEC: json.dumps(SPEC).encode(), pt2.LIBRARY: library}
    known[pt2.DESCRIPTION] = b'{"AOTI_DEVICE_KEY": "cpu"}'
    fixed = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
    return {f"{stem}/{name}": known.get(name, fixed.get(name, b"1\n")) for name in pt2.MEMBERS}


def write_package(path: Path, library: bytes = b"no library") -> None:
    """A package as the target writes it."""
    with zipfile.ZipFile(path, "w") as package:
        for name, data in sorted(members(path.stem, library).items()):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            package.writestr(info, data)


def write_safetensors(path: Path, values: bytes = bytes(range(8))) -> None:
    header = {"x": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def seal(final: Path, kind: str = "aoti", files: Mapping[str, bytes] | None = None) -> Path:
    """Write an artifact of a kind, with other `files` where some are given; return its folder."""
    with store.stage(final) as folder:
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "config.json").write_text('{"model_type": "whisper"}')
        for name, data in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if files is None:
            write_safetensors(folder / "weights.safetensors")
            write_package(folder / "encoder.pt2")
        store.seal(folder, manifest(kind))
        store.publish(folder, final)
    return final


def refusal(folder: Path) -> str:
    """What an artifact is refused with, though its user trusts it."""
    try:
        load.load(folder, trust=True)
    except ExporterError as error:
        code, told = error.exit_code, str(error)
    assert code == 5
    assert len(told.splitlines()) <= 3
    assert all(line.isprintable() for line in told.splitlines()), repr(told)
    return told
