"""The recipes that come along: each is read strictly, and asks for what its parts can do."""

from pathlib import Path

import pytest

from exporter import recipe as recipes
from exporter.recipe import Recipe
from exporter.targets import TARGETS
from tests.support.kinds import ON_CPU

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "recipes").glob("**/*.yaml"))

each_recipe = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> Recipe:
    """Read a recipe and the options of all its targets, strictly."""
    recipe = recipes.read(path)
    for index, target in enumerate(recipe.targets):
        recipe.options(index, TARGETS[target.kind].Options)
    return recipe


@each_recipe
def test_a_recipe_is_usable_and_named_like_its_file(path: Path) -> None:
    recipe = read(path)
    assert recipe.name == path.stem
    assert {target.kind for target in recipe.targets} == set(ON_CPU)
    assert recipe.data is not None
    assert recipe.gate.min_clips <= (recipe.data.max_clips or recipe.gate.min_clips)


@each_recipe
def test_only_models_of_many_languages_are_told_one(path: Path) -> None:
    recipe = read(path)
    whisper = "whisper" in recipe.checkpoint and not recipe.checkpoint.endswith(".en")
    assert (recipe.decoding.task is not None) == whisper
    many = whisper or recipe.checkpoint.startswith("facebook/mms")
    assert (recipe.decoding.language is not None) == many


def test_a_real_checkpoint_of_each_kind_has_a_recipe() -> None:
    assert {read(path).checkpoint for path in PATHS} >= {
        *("openai/whisper-large-v3", "openai/whisper-large-v3-turbo", "openai/whisper-small"),
        *("openai/whisper-tiny", "openai/whisper-small.en", "distil-whisper/distil-large-v3.5"),
        *("facebook/wav2vec2-base-960h", "jonatasgrosman/wav2vec2-large-xlsr-53-german"),
        *("facebook/hubert-large-ls960-ft", "facebook/mms-1b-all"),
        "speechbrain/asr-wav2vec2-commonvoice-14-en",
    }
