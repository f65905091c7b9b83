"""The quantization plan: the scheme of each module of a model, decided once for all targets.

A recipe has patterns and a default. `match_rules` matches them with the model's modules; targets,
the worker process and the manifest use only the result, a scheme by module name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from torch import nn

from exporter.errors import RecipeError
from exporter.quantization.schemes import SCHEMES
from exporter.quantization.schemes.base import IntegerScheme, QuantizationScheme

HEAD = "lm_head"
"""The pattern for the projection to the vocabulary, whatever its name in a family."""


@dataclass(frozen=True)
class QuantizationPlan:
    """Schemes by module name; a module without a scheme is unchanged."""

    modules: Mapping[str, QuantizationScheme] = field(default_factory=dict)

    @cached_property
    def quantized(self) -> dict[str, IntegerScheme]:
        """The modules that store integers."""
        return {n: s for n, s in self.modules.items() if isinstance(s, IntegerScheme)}

    def limited_to(self, names: Collection[str]) -> QuantizationPlan:
        """Return the plan restricted to the modules `names`."""
        return QuantizationPlan({n: scheme for n, scheme in self.modules.items() if n in names})

    def with_scheme(self, names: Collection[str], scheme: QuantizationScheme) -> QuantizationPlan:
        """Return the plan with another scheme for the modules `names`."""
        changed = {n: scheme if n in names else own for n, own in self.modules.items()}
        return QuantizationPlan(changed)

    @cached_property
    def calibrated(self) -> tuple[str, ...]:
        """The modules whose schemes have fields that a build calibrates."""
        return tuple(name for name, scheme in self.modules.items() if scheme.CALIBRATED)

    def with_ranges(self, ranges: Mapping[str, tuple[float, float]]) -> QuantizationPlan:
        """Return the plan with the ranges of the inputs of calibrated modules."""
        changed = dict(self.modules)
        for name in self.calibrated:
            low, high = ranges[name]
            changed[name] = changed[name].model_copy(update={"low": low, "high": high})
        return QuantizationPlan(changed)

    def as_data(self) -> list[dict[str, Any]]:
        """Return the plan as JSON data, grouped by scheme: the same for equal plans."""
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for name, scheme in self.modules.items():
            group = {"scheme": scheme.name, "parameters": scheme.parameters, "modules": []}
            key = scheme.name, json.dumps(scheme.parameters, sort_keys=True)
            groups.setdefault(key, group)["modules"].append(name)
        return [groups[key] for key in sorted(groups)]

    @classmethod
    def from_data(cls, groups: Iterable[Mapping[str, Any]]) -> QuantizationPlan:
        """Return the plan from the data of `as_data`."""
        modules: dict[str, QuantizationScheme] = {}
        for group in groups:
            scheme = SCHEMES[group["scheme"]].Scheme.model_validate(group["parameters"])
            modules |= dict.fromkeys(group["modules"], scheme)
        return cls(modules)


@dataclass(frozen=True)
class Match:
    """The modules whose scheme comes from one pattern, or from the default if it is None."""

    pattern: str | None
    scheme: QuantizationScheme
    modules: tuple[str, ...]


class PatternError(RecipeError):
    """A pattern that sets the scheme of no module."""

    def __init__(self, pattern: str, message: str) -> None:
        super().__init__(message)
        self.pattern = pattern


def match_rules(
    model: nn.Module,
    patterns: Mapping[str, QuantizationScheme],
    default: QuantizationScheme,
    head: str,
    shared: Mapping[str, str] | None = None,
) -> list[Match]:
    """Match patterns with a model's modules; the first pattern that matches a module counts.

    A token table whose weights are the head's has the head's scheme, if that has a scale per row
    and no pattern says `float`: both are then stored once.

    Args:
        model: The model, whose module names are matched.
        patterns: Shell-style patterns (`*.fc1`), or `lm_head`, each with its scheme.
        default: The scheme of all other modules that can have it.
        head: The name of the module that projects to the vocabulary.
        shared: The result of `shared_tables`.

    Returns:
        One match per pattern, in order, then the default's.

    Raises:
        PatternError: A pattern sets the scheme of no module, so it is a mistake.
    """
    tables = {name: model.get_submodule(name) for name in shared or {}}
    free = {**quantizable(model), **tables}
    names = list(free)
    matches = []
    for pattern, scheme in patterns.items():
        fitting = [name for name in names if _matches(name, pattern, head)]
        chosen = [n for n in fitting if n in free and scheme.applies_to(free[n])]
        if not chosen:
            raise PatternError(pattern, _why_none(pattern, scheme, names, fitting, free))
        matches.append(Match(pattern, scheme, tuple(chosen)))
        free = {name: module for name, module in free.items() if name not in chosen}
    rest = [n for n, m in free.items() if n not in tables and default.applies_to(m)]
    matches.append(Match(None, default, tuple(rest)))
    return [_with_tables(match, shared or {}, free) for match in matches]


def shared_tables(tied: Mapping[str, str], stored: Collection[str]) -> dict[str, str]:
    """Return the names of token tables whose weights are also a head's, each with the head.

    Args:
        tied: Maps parameters to those that checkpoints store for them, as `Family.TIED`.
        stored: The names of the checkpoint's tensors.
    """
    pairs = tied.items()
    return {_owner(table): _owner(head) for head, table in pairs if head not in stored}


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _with_tables(match: Match, shared: Mapping[str, str], free: Collection[str]) -> Match:
    """Return a match with the tables that share the weights of a head in it."""
    if not isinstance(match.scheme, IntegerScheme) or not match.scheme.by_row:
        return match
    tables = [table for table, head in shared.items() if head in match.modules and table in free]
    return replace(match, modules=(*match.modules, *tables))


def plan_of(matches: Iterable[Match], model: nn.Module) -> QuantizationPlan:
    """Return the plan of some matches, in the order of the model's modules."""
    schemes = {name: match.scheme for match in matches for name in match.modules}
    return QuantizationPlan(
        {name: schemes[name] for name, _ in model.named_modules() if name in schemes}
    )


def require_schemes(plan: QuantizationPlan, kind: str, known: Collection[str]) -> None:
    """Check that a kind of target can execute every scheme of a plan.

    Args:
        plan: The plan.
        kind: The kind of target, for the message.
        known: The names of the schemes that it can execute.

    Raises:
        RecipeError: A module's scheme is not among them.
    """
    for name, scheme in plan.modules.items():
        if scheme.name not in known:
            msg = f"{name}: {kind} has no `{scheme.name}`; it has {', '.join(sorted(known))}"
            raise RecipeError(msg)


def quantizable(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that some scheme can quantize, which are all that patterns match."""
    schemes = [SCHEMES[name].Scheme for name in SCHEMES]
    integer = [scheme for scheme in schemes if issubclass(scheme, IntegerScheme)]
    return {
        name: module
        for name, module in model.named_modules()
        if any(scheme.applies_to(module) for scheme in integer)
    }


def _matches(name: str, pattern: str, head: str) -> bool:
    return fnmatchcase(name, pattern) or (pattern == HEAD and name == head)


def _why_none(
    pattern: str,
    scheme: QuantizationScheme,
    names: list[str],
    fitting: list[str],
    free: Collection[str],
) -> str:
    if not fitting:
        return f"{pattern!r} matches no module that can be quantized; {_nearest(pattern, names)}"
    if any(name in free for name in fitting):
        return f"no module that {pattern!r} matches can be `{scheme.name}`"
    return (
        f"earlier patterns match every module that {pattern!r} does, and the first one counts: "
        "write it before them"
    )


def _nearest(pattern: str, names: list[str]) -> str:
    """Suggest the module whose last name components are most similar to the pattern's."""
    if not names:
        return "the model has none"
    literal = pattern.replace("*", "").replace("?", "").strip(".")
    depth = literal.count(".") + 1
    tails = {".".join(name.split(".")[-depth:]): name for name in reversed(names)}
    (best,) = difflib.get_close_matches(literal, tails, n=1, cutoff=0.0)
    return f"the nearest is {tails[best]}"
