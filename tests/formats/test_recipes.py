"""The recipes that come along: each is read strictly, and asks for what its parts can do."""

from pathlib import Path

import pytest

from exporter import recipe as recipes
from exporter.recipe import Recipe
from exporter.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "recipes").glob("*.yaml"))

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
    assert {target.kind for target in recipe.targets} == set(TARGETS)
    assert recipe.data is not None
    assert recipe.gate.min_clips <= (recipe.data.max_clips or recipe.gate.min_clips)


@each_recipe
def test_english_only_checkpoints_are_asked_for_no_language(path: Path) -> None:
    recipe = read(path)
    english = recipe.checkpoint.endswith(".en")
    assert (recipe.decoding.language is None) == english
    assert (recipe.decoding.task is None) == english


def test_a_real_checkpoint_of_each_kind_has_a_recipe() -> None:
    assert {read(path).checkpoint for path in PATHS} >= {
        *("openai/whisper-large-v3", "openai/whisper-large-v3-turbo", "openai/whisper-small"),
        *("openai/whisper-tiny", "openai/whisper-small.en", "distil-whisper/distil-large-v3.5"),
    }
