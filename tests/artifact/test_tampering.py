"""Artifacts that were tampered with, and those of older versions: never the one for the other."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import build_registry, store, trust
from exporter.errors import IntegrityError, TrustError
from tests.support.sealed import seal

FLIPS, EDITS = 10_000, 200
# Run where nothing is imported yet, so that what is imported then shows.
FRESH = """
import sys
from pathlib import Path
from tests.artifact.test_tampering import {what}
print({what}(Path(sys.argv[1])))
loaded = {{"torch", "transformers", "onnxruntime", "onnx", "safetensors"}} & sys.modules.keys()
print(*loaded)
"""
Break = Callable[[Path], object]
Record = Callable[[str, object], None]


def refused(folder: Path) -> bool:
    """Whether an artifact that was built here is one no more; what is told fits three lines."""
    try:
        trust.verify_and_authorize(folder, trust=False)
    except (IntegrityError, TrustError) as error:
        return error.exit_code == 5 and len(str(error).splitlines()) <= 3
    return False


def flips_refused(folder: Path) -> int:
    """Flip one bit at a time, anywhere in any file, manifest included; count the refusals."""
    source = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    count = 0
    for _ in range(FLIPS):
        path = source.choice(files)
        place, bit = source.randrange(path.stat().st_size), 1 << source.randrange(8)
        with path.open("r+b", buffering=0) as file:
            file.seek(place)
            (byte,) = file.read(1)
            for value in (byte ^ bit, byte):
                file.seek(place)
                file.write(bytes([value]))
                if value != byte:
                    count += refused(folder)
    return count


def edits_refused(folder: Path) -> int:
    """Edit the manifest so that it stays well formed, and often canonical; count the refusals."""
    source = random.Random(0)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    seen: set[bytes] = {whole}
    count = 0
    while len(seen) <= EDITS:
        edited = edit(json.loads(whole), source)
        text = json.dumps(edited, indent=1, sort_keys=source.random() < 0.9).encode() + b"\n"
        if text in seen:
            continue
        seen.add(text)
        path.write_bytes(text)
        count += refused(folder)
    path.write_bytes(whole)
    return count


VALUES: list[Any] = [
    *(None, True, -1, 0, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\0", "\n\n\n\n"),
    *("../outside", "/etc/passwd", "C:\\x", "a/../../b", "a\\b", "aoti", "0" * 64, "\x1b[2J"),
    *([], {}, [[]], {"x": {}}, ["encoder.pt2"], "x" * 10_000),
]


def edit(told: dict[str, Any], source: random.Random) -> dict[str, Any]:
    """Change, remove, add or double something, at any depth."""
    owner: Any = told
    while True:
        keys = list(range(len(owner))) if isinstance(owner, list) else sorted(owner)
        key = source.choice(keys) if keys else None
        inner = owner[key] if key is not None else None
        if not isinstance(inner, dict | list) or not inner or source.random() < 0.3:
            break
        owner = inner
    how = source.randrange(4)
    if how == 0 and key is not None:
        del owner[key]
    elif how == 1 and isinstance(owner, list):
        owner.append(inner)
    elif how == 2 and isinstance(owner, dict):
        owner[f"surprise-{source.randrange(99)}"] = source.choice(VALUES)
    elif key is not None:
        owner[key] = source.choice(VALUES)
    return told


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact with code, noted as built here."""
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "state"))
    folder = seal(tmp_path / "artifacts" / "aoti")
    build_registry.record(store.read_manifest(folder))
    assert not refused(folder)
    return folder


@pytest.mark.parametrize(("what", "all_of"), [("flips_refused", FLIPS), ("edits_refused", EDITS)])
def test_every_change_is_refused_before_a_loader_is_imported(
    what: str, all_of: int, sealed: Path, repository: Path, record_property: Record
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(what=what), str(sealed)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [str(all_of), ""], done.stderr
    assert not refused(sealed)
    record_property("promise", "P6")
    record_property("cases", all_of)


def moved(old: str, new: str) -> Break:
    return lambda folder: (folder / old).rename(folder / new)


def linked(link: Callable[[Path, Path], None], name: str) -> Break:
    """The same bytes, but by a link."""

    def replace(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        link(outside, folder / name)

    return replace


def pipe(name: str) -> Break:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return replace


def swapped(folder: Path) -> None:
    one, other = folder / "encoder.pt2", folder / "weights.safetensors"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def folder_by_a_link(folder: Path) -> None:
    (folder.parent / "outside").mkdir()
    (folder / "deep").symlink_to(folder.parent / "outside")


STRUCTURE: dict[str, Break] = {
    "extra": lambda folder: (folder / "more.json").write_text("{}"),
    "extra and hidden": lambda folder: (folder / ".more").write_text("{}"),
    "extra in a folder": lambda folder: (
        (folder / "deep").mkdir() or (folder / "deep" / "x").write_text("")
    ),
    "missing": lambda folder: (folder / "weights.safetensors").unlink(),
    "missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "renamed": moved("weights.safetensors", "weights2.safetensors"),
    "other case": moved("weights.safetensors", "Weights.safetensors"),
    "moved": lambda folder: (folder / "deep").mkdir() or moved("config.json", "deep/x")(folder),
    "swapped": swapped,
    "shorter": lambda folder: os.truncate(folder / "encoder.pt2", 100),
    "longer": lambda folder: os.truncate(folder / "encoder.pt2", 100_000),
    "empty": lambda folder: (folder / "encoder.pt2").write_bytes(b""),
    "a folder": lambda folder: (
        (folder / "config.json").unlink() or (folder / "config.json").mkdir()
    ),
    "a pipe": pipe("encoder.pt2"),
    "a pipe for a manifest": pipe("manifest.json"),
    "a link": linked(lambda old, new: new.symlink_to(old), "encoder.pt2"),
    "a link for a manifest": linked(lambda old, new: new.symlink_to(old), "manifest.json"),
    "a hard link": linked(lambda old, new: new.hardlink_to(old), "encoder.pt2"),
    "a hard link for a manifest": linked(lambda old, new: new.hardlink_to(old), "manifest.json"),
    "a folder by a link": folder_by_a_link,
    "a name with an escape": lambda folder: (folder / "\x1b[2J\n\n\n").write_text(""),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_a_changed_folder_is_refused(case: str, sealed: Path, record_property: Record) -> None:
    STRUCTURE[case](sealed)
    assert refused(sealed)
    record_property("promise", "P6")
    record_property("cases", 1)


def test_data_alone_tells_every_change_of_its_files(tmp_path: Path) -> None:
    """An edited manifest, which nothing else knows, is another artifact: its digest says so."""
    folder = seal(tmp_path / "data", "onnx-int8", {"model.onnx": b"graph", "merges.txt": b"a b"})
    digest, source = store.verify(folder).digest, random.Random(1)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in source.sample(range(len(whole) * 8), min(200, len(whole) * 8)):
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            same = not refused(folder) and store.verify(folder).digest == digest
            assert not same, f"bit {place} of {path.name}"
        path.write_bytes(whole)
    assert store.verify(folder).digest == digest
