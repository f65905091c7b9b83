"""Check a recipe's decoding options against those that a family has."""

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
    """Return a message that a kind of model lacks an option, with those that it has."""
    options = ", ".join(known) or "none"
    return f"this kind of model has no decoding option `{name}`: leave it out (it has: {options})"
