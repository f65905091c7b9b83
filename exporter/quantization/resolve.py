"""Resolve a recipe's quantization rules to schemes by module; errors name the recipe's line."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from exporter.formats.yaml_source import Loc
from exporter.quantization.plan import Match, PatternError, match_rules
from exporter.quantization.schemes import DEFAULT, SCHEMES
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.recipe import Quantization, Recipe, SchemeSpec
from exporter.system.text import nearest


def resolve_quantization(
    recipe: Recipe,
    chosen: Sequence[int],
    model: nn.Module,
    head: str,
    shared: Mapping[str, str],
    default_of: Callable[[str], str],
) -> dict[int, list[Match]]:
    """Resolve a recipe's rules for a model, once for all targets of like rules.

    Args:
        recipe: The recipe, whose `quantization` a target's own replaces.
        chosen: Indices of the targets in the recipe.
        model: The checkpoint's model, without weights.
        head: The name of the module that projects to the vocabulary.
        shared: The tables with a head's weights, from `shared_tables`.
        default_of: Returns the scheme of a kind of target where a recipe sets none, by its name.

    Returns:
        The matches of each target, by its index.

    Raises:
        RecipeError: A scheme is unknown, or a pattern sets the scheme of no module.
    """

    def resolved(loc: Loc, rules: Quantization | None, default: str) -> list[Match]:
        return _matches(recipe, loc, rules, model, head, shared, default)

    common: dict[str, list[Match]] = {}
    matches = {}
    for index in chosen:
        target = recipe.targets[index]
        default, own = default_of(target.kind), target.quantization
        if own is not None:
            matches[index] = resolved(("targets", index, "quantization"), own, default)
            continue
        if default not in common:
            common[default] = resolved(("quantization",), recipe.quantization, default)
        matches[index] = common[default]
    return matches


def _matches(
    recipe: Recipe,
    loc: Loc,
    rules: Quantization | None,
    model: nn.Module,
    head: str,
    shared: Mapping[str, str],
    fallback: str,
) -> list[Match]:
    if rules is None:
        return default_quantization(model, head, shared, fallback)
    patterns = {
        pattern: _scheme(recipe, (*loc, "modules", pattern), spec)
        for pattern, spec in rules.modules.items()
    }
    default = SCHEMES[fallback].Scheme()
    if rules.default:
        default = _scheme(recipe, (*loc, "default"), rules.default)
    try:
        return match_rules(model, patterns, default, head, shared)
    except PatternError as error:
        place = (*loc, "modules", error.pattern)
        raise recipe.error(place, str(error), of_key=True) from None


def default_quantization(
    model: nn.Module, head: str, shared: Mapping[str, str], default: str = DEFAULT
) -> list[Match]:
    """Return the matches of a recipe without `quantization`, for a kind with this default."""
    return match_rules(model, {}, SCHEMES[default].Scheme(), head, shared)


def _scheme(recipe: Recipe, loc: Loc, spec: SchemeSpec) -> QuantizationScheme:
    if spec.scheme not in SCHEMES:
        near = nearest(spec.scheme, SCHEMES)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(SCHEMES)}"
        raise recipe.error(loc, f"unknown scheme {spec.scheme!r}: {hint}")
    scheme = SCHEMES[spec.scheme].Scheme
    for name in sorted(scheme.CALIBRATED & spec.parameters.keys()):
        msg = f"`{name}` is calibrated by the build: leave it out"
        raise recipe.error((*loc, name), msg, of_key=True)
    return recipe.check(scheme, spec.parameters, loc)
