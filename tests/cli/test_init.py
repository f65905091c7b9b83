"""`exporter init` starts a recipe that a build accepts, offline, and never writes over another."""

import json
import os
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.cli.init import recipe as recipes
from exporter.errors import RecipeError
from exporter.recipe import read
from tests.support.kinds import ON_CPU


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_hub_id_gives_a_recipe_without_a_request(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert main(["init", "openai/whisper-small"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("recipes/whisper-small-int8.yaml: a recipe with three targets")
    assert err == ""
    written = read(Path("recipes/whisper-small-int8.yaml"))
    assert (written.name, written.checkpoint) == ("whisper-small-int8", "openai/whisper-small")
    assert [target.kind for target in written.targets] == ON_CPU
    assert written.decoding.task == "transcribe"


def test_a_checkpoint_in_a_folder_gives_a_recipe_that_builds(
    tiny_whisper: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tiny_whisper), "--output", "r/mine.yaml", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["recipe"] == "r/mine.yaml"
    written = read(Path("r/mine.yaml"))
    assert (Path("r") / written.checkpoint).resolve() == tiny_whisper.resolve()
    assert not written.absolute_paths
    assert main(["build", "r/mine.yaml", "--dry-run", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["plan"]) == len(ON_CPU)


@pytest.mark.parametrize("source", ["openai/whisper-small.en", "folder"])
def test_an_english_only_checkpoint_gets_no_language(source: str, here: Path) -> None:
    (here / "folder").mkdir()
    (here / "folder/config.json").write_text('{"model_type": "whisper"}')
    (here / "folder/generation_config.json").write_text('{"is_multilingual": false}')
    path = recipes.start(source, None, None, force=False)
    assert (read(path).decoding.language, read(path).decoding.task) == (None, None)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "größer",
        "x: y",
        "#1",
        "'q'",
        '"',
        "123",
        "true",
        "- x",
        "{x}",
        "-",
        "...",
        "日本",
        "n" * 200,
    ],
)
def test_any_name_of_a_folder_gives_a_recipe(name: str, here: Path) -> None:
    folder = here / name
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    written = read(recipes.start(f"./{name}", Path("recipe.yaml"), None, force=False))
    assert Path(written.checkpoint).resolve() == folder.resolve()


@pytest.mark.parametrize("source", ["letters", "facebook/wav2vec2-base-960h", "org/data2vec_audio"])
def test_a_ctc_model_is_told_no_language(source: str, here: Path) -> None:
    (here / "letters").mkdir()
    (here / "letters" / "config.json").write_text('{"model_type": "hubert"}')
    written = read(recipes.start(source, Path("recipe.yaml"), None, force=False))
    assert written.decoding.model_fields_set == {"chunk_length_s"}


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x\u202ey", os.fsdecode(b"x\xff")])
def test_a_name_that_yaml_cannot_hold_is_refused(name: str, here: Path) -> None:
    (here / name).mkdir()
    (here / name / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(RecipeError, match="cannot be written into a recipe"):
        recipes.start(name, None, None, force=False)


def test_another_recipe_is_not_written_over(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "org/model"]) == 0
    assert main(["init", "org/model"]) == 0  # the same bytes
    path = here / "recipes/model-int8.yaml"
    path.write_text("mine\n")
    assert main(["init", "org/model"]) == 2
    assert path.read_text() == "mine\n"
    told = capfd.readouterr().err
    assert told.startswith("error: recipes/model-int8.yaml already exists: replace it with --force")
    assert main(["init", "org/model", "--force"]) == 0
    assert read(path).checkpoint == "org/model"


def test_a_link_is_not_followed(here: Path) -> None:
    (here / "recipes").mkdir()
    (here / "recipes/model-int8.yaml").symlink_to(here / "elsewhere")
    assert main(["init", "org/model"]) == 2
    assert main(["init", "org/model", "--force"]) == 0
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["absent/folder/x"], 2, "no checkpoint: give a folder, or a Hub id like ORG/NAME"),
        (["recipe.yaml"], 2, "recipe.yaml is a recipe: run `exporter build recipe.yaml`"),
        (["org/model", "--repo", "x y"], 2, "'x y' is not a repository"),
        (["org/model", "--github"], 2, "--github needs --repo ORG/NAME"),
        (["recipe.yaml", "--github", "--repo", "a/b"], 2, "are for a new recipe"),
        (["clips"], 3, "clips holds no config.json, so it is no checkpoint"),
        (["other"], 3, "model_type 'bert' is not one of"),
    ],
)
def test_what_is_no_checkpoint_is_told(
    arguments: list[str], code: int, told: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "recipe.yaml").write_text("name: x\n")
    (here / "clips").mkdir()
    (here / "other").mkdir()
    (here / "other/config.json").write_text('{"model_type": "bert"}')
    assert main(["init", *arguments]) == code
    assert told in capfd.readouterr().err
    assert not (here / "recipes").exists()


def test_recipe_and_workflow_at_once(here: Path) -> None:
    (here / ".git").mkdir()
    given = ["init", "org/model", "--repo", "org/model-int8", "--github"]
    assert main([*given, "--package", "asr-exporter @ git+https://host/x@" + "a" * 40]) == 0
    recipe = read(here / "recipes/model-int8.yaml")
    assert recipe.hub is not None
    assert recipe.hub.repo == "org/model-int8"
    assert "recipes/model-int8.yaml" in (here / ".github/workflows/export.yml").read_text()


@pytest.mark.parametrize("source", ["speechbrain/asr-wav2vec2-commonvoice-14-en", "folder"])
def test_the_pickles_of_speechbrain_are_allowed(source: str, here: Path) -> None:
    (here / "folder").mkdir()
    (here / "folder/config.json").write_text('{"model_type": "wav2vec2"}')
    (here / "folder/hyperparams.yaml").write_text("")
    written = read(recipes.start(source, None, None, force=False))
    assert written.allow_pickle
    assert written.decoding.chunk_length_s == 30
    assert not read(recipes.start("facebook/wav2vec2-base", None, None, force=False)).allow_pickle
