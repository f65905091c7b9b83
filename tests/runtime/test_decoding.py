"""Options that callers give have a recipe's limits, and are told in the same words."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from exporter.errors import RecipeError
from exporter.formats.yaml_source import explain
from exporter.recipe import Decoding
from exporter.runtime.decoding import OPTIONS, complete, overlaid

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 5.0, 0.5, -0.0, 10**30, 64, 65, 600, 600.5, 1024, 1025),
    *(float("inf"), float("nan"), "", " en", "en", "a\nb", "transcribe", "transcrib", "5", "true"),
    *([], [0.0], [0.0, 0.2, 1], ["0"], [11], [None], [0.5] * 17, {}, {"a": 1}),
]


def theirs(name: str, value: Any) -> Any:
    """What a recipe makes of a value, or what is said of it."""
    try:
        text = json.dumps({name: value})
        return getattr(Decoding.model_validate_json(text, strict=True), name)
    except ValidationError as error:
        return explain(error, Decoding)[:1]


def ours(name: str, value: Any) -> Any:
    try:
        return overlaid(complete({}), {name: value})[name]
    except RecipeError as error:
        return [str(error)]


@pytest.mark.parametrize("name", OPTIONS)
def test_values_are_those_of_recipes(name: str) -> None:
    for value in VALUES:
        expected, found = theirs(name, value), ours(name, value)
        assert (found, type(found)) == (expected, type(expected)), value


def test_every_option_of_a_recipe_is_in_the_table() -> None:
    assert list(OPTIONS) == list(Decoding.model_fields)
    assert complete({}) == vars(Decoding())
    given = {"num_beams": 5, "language": "en"}
    assert complete(given) == vars(Decoding.model_validate(given))


def test_several_mistakes_are_told_together() -> None:
    told = "num_beams: expected greater than or equal to 1, got 0\ntimestamps: expected true or"
    with pytest.raises(RecipeError, match=f"^{told}"):
        overlaid(complete({}), {"timestamps": 1, "num_beams": 0})
    with pytest.raises(RecipeError, match="an unknown option 'beams'; did you mean 'num_beams'"):
        complete({"beams": 1})
