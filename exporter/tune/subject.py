"""What is tuned: one target of a recipe, the groups of its plan, and plans of some of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from exporter.build.calibration import Calibrated, Calibration, place_of
from exporter.build.resolve import Planned, resolve
from exporter.errors import GateError, RecipeError
from exporter.families import FAMILIES
from exporter.families.base import Family
from exporter.formats.yaml_source import Loc
from exporter.quantization.groups import ModuleGroup, module_groups, selecting
from exporter.quantization.plan import (
    Match,
    QuantizationPlan,
    plan_of,
    quantizable,
    shared_tables,
)
from exporter.quantization.resolve import resolve_quantization
from exporter.quantization.schemes import FLOAT, SCHEMES
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.recipe import Recipe, read
from exporter.system.progress import Progress
from exporter.targets import default_scheme
from exporter.tune.recipe_text import (
    CALIBRATION,
    QUANTIZATION,
    Rules,
    overrides_of,
    rules_of,
    tuned_text,
)
from exporter.validate.gate.foreseen import obstacles_of

Goal = Literal["speed", "size"]


@dataclass(frozen=True)
class Subject:
    """A target to tune.

    Attributes:
        recipe: The recipe.
        index: The target's index in it.
        planned: The target with the recipe's own plan.
        every: What the recipe's rules match, by target.
        skeleton: The model, without weights.
        shared: The tables with a head's weights, which follow its scheme.
        groups: The groups of what the plan quantizes.
        instead: The scheme of modules that are not quantized.
    """

    recipe: Recipe
    index: int
    planned: Planned
    every: Mapping[int, Sequence[Match]]
    skeleton: nn.Module
    shared: Mapping[str, str]
    groups: tuple[ModuleGroup, ...]
    instead: QuantizationScheme

    @property
    def name(self) -> str:
        """The target's name."""
        return self.recipe.targets[self.index].name

    @property
    def family(self) -> Family:
        """The family of the model."""
        return FAMILIES[self.planned.family]

    @property
    def calibrated(self) -> dict[Calibration, Calibrated]:
        """What the calibration gave, by what was asked; empty before it ran, or without one."""
        planned = self.planned
        if planned.calibration is None or planned.calibrated is None:
            return {}
        return {planned.calibration: planned.calibrated}

    def plan(self, quantized: Collection[str]) -> QuantizationPlan:
        """Return the plan in which only the groups of these names are quantized."""
        others = self._others(quantized)
        changed = self.planned.plan.with_scheme(others, self.instead)
        outside = {name for name in others if name in self.shared}
        return changed.limited_to(changed.modules.keys() - outside)

    def rules(self, quantized: Collection[str]) -> Rules:
        """Return the recipe's rules for the same."""
        others = [name for name in self._others(quantized) if name not in self.shared]
        return rules_of(
            self.every[self.index], {self.instead: others}, self.pattern_names, self.family.HEAD
        )

    def patterns(self, group: ModuleGroup) -> list[str]:
        """Return the patterns that select a group; a table follows its head."""
        own = [name for name in group.modules if name not in self.shared]
        return selecting(own, self.pattern_names, self.family.HEAD)

    @property
    def pattern_names(self) -> list[str]:
        """The names of all modules that a pattern of a recipe could match."""
        return [*quantizable(self.skeleton), *self.shared]

    def trial(self, quantized: Collection[str]) -> Recipe:
        """Return the recipe that builds the target so, and no other.

        It has a calibration if the plan needs one, since a needless one is refused.
        """
        rules, (loc, spec) = self.rules(quantized), place_of(self.recipe, self.index)
        needless: tuple[str, ...] = ()
        if spec is not None and self.plan(quantized).calibrated:
            rules[CALIBRATION] = spec.model_dump(mode="json", exclude_unset=True)
        elif loc == (QUANTIZATION, CALIBRATION):
            needless = (f"{QUANTIZATION}.{CALIBRATION}=null",)
        changes = overrides_of(self.recipe, self.index, rules)
        made = read(self.recipe.path, (*changes, *needless))
        self.require_plan(made, quantized, 0)
        return made

    def text(self, quantized: Collection[str], note: str, place: Path) -> str:
        """Return the text of the recipe with the rules for these groups.

        Args:
            quantized: The names of the groups that stay quantized.
            note: A comment for the rules, in one line.
            place: The path that the text is for.
        """
        rules = self.rules(quantized)
        needless = self._needless(quantized)
        return tuned_text(self.recipe, self.index, rules, note, place, needless)

    def _needless(self, quantized: Collection[str]) -> Loc | None:
        """Return where a calibration is written that no target needs with the rules for these."""
        recipe, (loc, spec) = self.recipe, place_of(self.recipe, self.index)
        if spec is None or self.plan(quantized).calibrated:
            return None
        own = recipe.targets[self.index].quantization is not None
        others = [
            n
            for n, target in enumerate(recipe.targets)
            if place_of(recipe, n)[0] == loc and (own or target.quantization is not None)
        ]
        plans = [plan_of(self.every[n], self.skeleton) for n in others if n != self.index]
        return None if any(plan.calibrated for plan in plans) else loc

    def require_plan(
        self, recipe: Recipe, quantized: Collection[str], index: int | None = None
    ) -> None:
        """Check that a recipe gives the target exactly the plan of these groups.

        Args:
            recipe: The recipe.
            quantized: The names of the groups.
            index: The target's index there; None: as in the recipe that is tuned.

        Raises:
            RuntimeError: It gives another, which is a bug.
        """
        family, place = self.family, self.index if index is None else index
        how = self.skeleton, family.HEAD, self.shared, default_scheme
        matches = resolve_quantization(recipe, [place], *how)
        if plan_of(matches[place], self.skeleton) != self.plan(quantized):
            msg = f"{recipe.path}: the rules that were written give another plan"
            raise RuntimeError(msg)

    def _others(self, quantized: Collection[str]) -> list[str]:
        return [m for group in self.groups if group.name not in quantized for m in group.modules]


def open_subject(recipe: Recipe, target: str | None, work: Path, progress: Progress) -> Subject:
    """Resolve the target of a recipe, with its weights on this machine.

    Args:
        recipe: The recipe.
        target: The target's name or kind; None is the first one.
        work: A folder for artifacts that are only tried.
        progress: Receives the steps of a download.

    Raises:
        RecipeError: The recipe is wrong, has no such target, no data, or quantizes nothing.
        GateError: No plan can pass on its data.
        CheckpointError: The checkpoint cannot be used.
        HubError: The Hub refused, or could not be reached.
        MachineError: This machine lacks what the target needs.
    """
    if recipe.data is None:
        msg = f"{recipe.path} names no `data`, on which its gate could judge: add `data`"
        raise RecipeError(msg)
    index = _index(recipe, target)
    for why in obstacles_of(recipe):
        msg = f"no plan could pass the gate of {recipe.path}: {why}"
        raise GateError(msg)
    name = recipe.targets[index].name
    alike = resolve(recipe, work, None, [name], progress)  # a name may be the kind of others
    planned = next(each for each in alike if each.path.name == name)
    if planned.blocker is not None:
        raise planned.blocker
    family = FAMILIES[planned.family]
    skeleton = family.skeleton(planned.checkpoint.config)
    shared = shared_tables(family.TIED, planned.checkpoint.tensors)
    rules = skeleton, family.HEAD, shared, default_scheme
    every = resolve_quantization(recipe, range(len(recipe.targets)), *rules)
    groups = module_groups(list(planned.plan.quantized), family.HEAD, shared)
    if not groups:
        loc = ("targets", index)
        raise recipe.error(loc, "its plan quantizes no module, so there is nothing to search")
    how = recipe, index, planned, every, skeleton, shared, tuple(groups)
    return Subject(*how, instead=SCHEMES[FLOAT].Scheme())


def _index(recipe: Recipe, target: str | None) -> int:
    fitting: Sequence[int] = [
        index
        for index, spec in enumerate(recipe.targets)
        if target is None or target in (spec.name, spec.kind)
    ]
    if not fitting:
        known = ", ".join(spec.name for spec in recipe.targets)
        msg = f"{recipe.path} has no target {target!r}: {known}"
        raise RecipeError(msg)
    return fitting[0]
