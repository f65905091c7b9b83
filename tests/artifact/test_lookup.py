"""Arguments of another kind: each command says what a path is and what to write instead."""

import signal
from pathlib import Path

import pytest

from exporter import load
from exporter.artifact import lookup
from exporter.artifact.manifest import MANIFEST
from exporter.cli import main
from exporter.errors import IntegrityError, RecipeError

CHOOSE = "built holds 2 artifacts: choose one of built/a, built/b"
HIGHER = "above holds 1 folder of artifacts: choose above/built"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one of each kind of thing that is given to commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for folder in (
        "built/a",
        "built/b",
        "above/built/a",
        "check point",
        "recipes",
        "audio",
        "empty",
    ):
        Path(folder).mkdir(parents=True)
    for artifact in ("built/a", "built/b", "above/built/a"):
        Path(artifact, MANIFEST).write_text("{}")
    Path("built/.a.partial-x").mkdir()
    Path("built/.a.partial-x", MANIFEST).write_text("{}")
    Path("check point/config.json").write_text("{}")
    for file in ("recipes/one.yaml", "recipes/two.yml", "audio/b.flac", "audio/a.WAV", "x.txt"):
        Path(file).write_text("")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("transcribe built audio/b.flac", CHOOSE),
        ("inspect built", CHOOSE),
        ("doctor built", CHOOSE),
        *((f"{command} above", HIGHER) for command in ("validate", "bench", "push", "verify")),
        ("sign above --key k.pem", HIGHER),
        ("inspect above", HIGHER),
        (
            "transcribe audio/b.flac built/a",
            "built/a is an artifact, and comes first:\nexporter transcribe built/a audio/b.flac",
        ),
        ("transcribe built/a built/b", "built/b is an artifact, not audio: give one artifact"),
        ("transcribe built/a empty", "empty is a folder without audio: name audio files"),
        ("transcribe recipes/one.yaml audio/b.flac", "recipes/one.yaml is a recipe, not an art"),
        ("transcribe audio/a.WAV audio/b.flac", "audio/a.WAV is audio, not an artifact: name an"),
        (
            "validate recipes/two.yml",
            "recipes/two.yml is a recipe, not an artifact: build it: exporter build "
            "recipes/two.yml",
        ),
        ("inspect recipes/one.yaml", "recipes/one.yaml is a recipe, not an artifact: build it"),
        ("push x.txt", "x.txt is a file: an artifact is a folder that `exporter build` made"),
        ("verify built/a/manifest.json", "is a file of an artifact: name its folder, built/a"),
        ("bench audio", "audio is a folder of audio, not an artifact: `exporter list` shows"),
        (
            "validate 'check point'",
            "check point is a checkpoint, not an artifact: write a recipe, then build it:\n"
            "exporter init 'check point'",
        ),
        (
            "build 'check point'",
            "check point is a checkpoint, not a recipe: write a recipe, then build it:\n"
            "exporter init 'check point'",
        ),
        ("build built/a", "built/a is an artifact, not a recipe: it is built already."),
        ("build built", "built holds 2 artifacts, not a recipe: name a YAML file"),
        (
            "build recipes",
            "recipes is a folder of recipes: choose one of recipes/one.yaml, recipes/two.yml",
        ),
        ("build empty", "empty is a folder, not a recipe: name a YAML file"),
        ("build audio/b.flac", "audio/b.flac is audio, not a recipe: a recipe is a YAML file"),
    ],
)
def test_the_command_to_write(command: str, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = command.replace("'check point'", "check\0point").split()
    code = main([each.replace("\0", " ") for each in arguments])
    error = capfd.readouterr().err.replace("\n  ", "\n")  # later lines are indented
    assert told in error
    assert code == 2
    assert len(error.strip().splitlines()) <= 3


@pytest.mark.parametrize("command", ["validate", "bench", "push", "verify"])
@pytest.mark.parametrize(
    ("path", "why"), [("nowhere/at/all", "it does not exist"), ("empty", "it has no manifest.json")]
)
def test_no_artifact(command: str, path: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, path]) == 5
    assert f"{path} is not an artifact: {why}.\n  Build one" in capfd.readouterr().err


def test_python_says_it_too() -> None:
    with pytest.raises(RecipeError, match="choose one of built/a, built/b"):
        load("built")
    with pytest.raises(RecipeError, match="exporter init"):
        load("check point")


def test_an_artifact_without_its_manifest_is_no_checkpoint() -> None:
    for name in ("config.json", "recipe.yaml"):
        Path("empty", name).write_text("{}")
    with pytest.raises(IntegrityError, match=r"has no manifest\.json"):
        load("empty")


def test_a_folder_of_very_many_things_is_named_in_part() -> None:
    for number in range(20):
        folder = Path("many", f"{number:02}")
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    with pytest.raises(IntegrityError, match="cannot be read"):
        load("many/00")
    assert str(lookup.not_an_artifact(Path("many"))).endswith("many/05 and 14 more")
