"""Which decoding options a family has, of those that a recipe may name."""

from collections.abc import Collection

from exporter.errors import RecipeError
from exporter.recipe import Decoding


def foreign_options(decoding: Decoding, known: Collection[str]) -> list[str]:
    """Return the options that are set and not among `known`, in the recipe's order."""
    usual = Decoding()
    return [
        name
        for name in Decoding.model_fields
        if name not in known and getattr(decoding, name) != getattr(usual, name)
    ]


def refuse_foreign_options(decoding: Decoding, known: Collection[str]) -> None:
    """Raise RecipeError for the first option that is set and not among `known`."""
    for name in foreign_options(decoding, known):
        raise RecipeError(foreign_option(name, known))


def foreign_option(name: str, known: Collection[str]) -> str:
    """Say that a kind of model has no such option, and which it has."""
    options = ", ".join(known) or "none"
    return f"this kind of model has no decoding option `{name}`: leave it out (it has: {options})"
