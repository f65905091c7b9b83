"""The checkpoint behind an artifact: found where the recipe named it, and held against its hash."""

import re
from pathlib import Path

import pytest

from exporter.artifact import local_paths
from exporter.artifact.local_paths import LocalPaths
from exporter.artifact.manifest import BuildFigures, Manifest, Origin, RecipeStamp, Requirements
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import CheckpointError, IntegrityError
from exporter.recognition.reference import References
from exporter.system.progress import silent


def manifest(source: str, recipe: Path, sha256: str) -> Manifest:
    return Manifest(
        name="a",
        kind="aoti",
        family="whisper",
        options={},
        recipe=RecipeStamp(name="a", sha256="0" * 64, source=str(recipe)),
        checkpoint=Origin(source=source, revision=None, sha256=sha256, size_bytes=4, parameters=1),
        needs=Requirements(),
        versions={},
        machine={},
        build=BuildFigures(seconds=1.0, peak_rss_bytes=2),
        build_key="2" * 64,
    )


def test_it_is_found_beside_its_recipe_and_opened_once(tiny_whisper: Path) -> None:
    originals = References("look again", silent)
    sha256 = open_checkpoint(str(tiny_whisper)).sha256
    told = manifest(tiny_whisper.name, tiny_whisper.parent / "recipe.yaml", sha256)
    found = originals.of_artifact(Path("a"), told)
    assert found.folder == tiny_whisper
    assert originals.of_artifact(Path("b"), told) is found


def test_it_is_found_from_where_the_build_ran(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_whisper.parent)
    sha256 = open_checkpoint(str(tiny_whisper)).sha256
    told = manifest(tiny_whisper.name, tmp_path / "recipe.yaml", sha256)
    assert References("look again", silent).of_artifact(Path("a"), told).sha256 == sha256


def test_one_that_is_gone_is_told(tmp_path: Path) -> None:
    told = manifest("../gone away", tmp_path / "recipe.yaml", "1" * 64)
    expected = (
        f"my a: its original is not at {tmp_path.parent / 'gone away'}.\n"
        "If it is elsewhere: look at 'my a'"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        References("look at ARTIFACT", silent).of_artifact(Path("my a"), told)


def test_another_one_in_its_place_is_refused(tiny_whisper: Path) -> None:
    told = manifest(str(tiny_whisper), Path("recipe.yaml"), "1" * 64)
    with pytest.raises(
        IntegrityError, match=r"is not the checkpoint that a was built from.\nBuild.*look again$"
    ):
        References("look again", silent).of_artifact(Path("a"), told)


def test_it_is_found_where_the_note_beside_the_manifest_says(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(str(tiny_whisper))
    told = manifest(checkpoint.name, Path("recipe.yaml"), checkpoint.sha256)
    noted = LocalPaths(recipe=str(tmp_path / "recipe.yaml"), checkpoint=str(tiny_whisper))
    local_paths.write(tmp_path, noted)
    assert told.checkpoint.source == tiny_whisper.name
    assert References("look again", silent).of_artifact(tmp_path, told).folder == tiny_whisper


@pytest.mark.parametrize("text", ["", "{", '{"recipe": 1}', "[" * 99])
def test_a_note_of_no_use_leaves_the_manifests_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "places.json").write_text(text)
    told = manifest("org/model", Path("recipe.yaml"), "1" * 64)
    assert local_paths.read(tmp_path, told) == LocalPaths(
        recipe="recipe.yaml", checkpoint="org/model"
    )
