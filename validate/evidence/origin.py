"""Hold an artifact's own account of itself to its checkpoint and its recipe.

What a manifest says of the plan, of the options and of the checkpoint is sealed, but nothing says
that it is true: a weight left float, or an option of another recipe, changes no hash.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from exporter.artifact.manifest import Manifest, QuantizedModules
from exporter.artifact.report import Check
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import ExporterError
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan, plan_of, shared_tables
from exporter.quantization.resolve import resolve_quantization
from exporter.quantization.schemes import SCHEMES
from exporter.recipe import Recipe
from exporter.system.text import harmless, listed
from exporter.targets import TARGETS, default_scheme
from exporter.targets.base import Records, Target
from exporter.targets.options import TargetOptions
from exporter.validate.evidence import companions

NAME = "plan"
_CALIBRATED = {name for name in SCHEMES if SCHEMES[name].Scheme.CALIBRATED}
_ADVICE = (
    "Usual causes: an artifact that another recipe built, or a manifest that was edited. "
    "Build it again with --force."
)


def checks(
    folder: Path, manifest: Manifest, recipe: Recipe, checkpoint: Checkpoint
) -> tuple[Check, ...]:
    """Check an artifact's small files, its plan and its facts, before any model runs.

    Args:
        folder: The artifact, whose bytes are verified.
        manifest: Its manifest.
        recipe: Its sealed recipe.
        checkpoint: The checkpoint that it was built from, by hash.

    Returns:
        The checks `companions` and `plan`; none for a family or a kind of target that is unknown
        here, which loading refuses.
    """
    if manifest.family not in FAMILIES or manifest.kind not in TARGETS:
        return ()
    family, target = FAMILIES[manifest.family], TARGETS[manifest.kind]
    model = family.skeleton(checkpoint.config)
    wrong = list(_facts(manifest, recipe, checkpoint))
    own: Mapping[str, bytes] = {}
    if _is_current(manifest, target):
        found = _records(manifest, recipe, checkpoint, target, model)
        if isinstance(found, Records):
            own = found.files
            wrong += [*_plan(manifest, found.plan), *_ranges(manifest, recipe)]
        else:
            wrong.append(found)
    differences = companions.compare_companions(folder, manifest, checkpoint, own)
    files = len(checkpoint.companions.keys() | own.keys())
    return companions.judged(differences, files), _judged(wrong, manifest)


def _judged(wrong: list[str], manifest: Manifest) -> Check:
    if wrong:
        more = f" {len(wrong) - 1} more differ." if len(wrong) > 1 else ""
        return Check(
            name=NAME,
            passed=False,
            value=len(wrong),
            limit=0,
            sentence=f"{wrong[0]}.{more}",
            advice=_ADVICE,
        )
    modules = sum(len(group.modules) for group in manifest.quantization)
    sentence = f"The manifest's plan for {modules} modules, and its facts, are the recipe's."
    return Check(name=NAME, passed=True, value=0, limit=0, sentence=sentence)


def _is_current(manifest: Manifest, target: Target) -> bool:
    """Return whether the manifest's options are of this release; earlier ones had others."""
    return manifest.options.keys() <= target.Options.model_fields.keys()


def _facts(manifest: Manifest, recipe: Recipe, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what a manifest says of recipe and checkpoint that is not so."""
    origin = manifest.checkpoint
    decoding = recipe.decoding.model_dump(mode="json")
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("manifest.json: recipe.sha256", manifest.recipe.sha256, recipe.sha256),
        ("manifest.json: recipe.name", manifest.recipe.name, recipe.name),
        # Earlier releases did not seal the decoding apart from the recipe.
        ("manifest.json: decoding", manifest.decoding or decoding, decoding),
        ("manifest.json: checkpoint.parameters", origin.parameters, checkpoint.parameters),
        ("manifest.json: checkpoint.size_bytes", origin.size_bytes, checkpoint.size_bytes),
    )
    for what, told, found in pairs:
        if told != found:
            yield f"{what} is {_short(told)}, and {_short(found)} is right"


def _records(
    manifest: Manifest,
    recipe: Recipe,
    checkpoint: Checkpoint,
    target: Target,
    model: nn.Module,
) -> Records | str:
    """Return what the build of the recipe's target would record, or why none is like it.

    A recipe may have several targets of a kind, and an artifact's folder any name: the one whose
    plan is the manifest's counts, else the first whose options are.
    """
    try:
        options = target.Options.model_validate(manifest.options)
    except (ValidationError, ExporterError) as error:
        reason = harmless(str(error).splitlines()[-1])[:80]
        return f"manifest.json: options are none of {manifest.kind} ({reason})"
    family = FAMILIES[manifest.family]
    same_kind = [n for n, spec in enumerate(recipe.targets) if spec.kind == manifest.kind]
    fitting = [n for n in same_kind if not _other_options(recipe.targets[n].options, options)]
    if not fitting:
        return _no_target(manifest, recipe, same_kind, options)
    try:
        shared = shared_tables(family.TIED, checkpoint.tensors)
        head = family.HEAD
        matches = resolve_quantization(recipe, fitting, model, head, shared, default_scheme)
    except ExporterError as error:
        return f"recipe.yaml: {harmless(str(error).splitlines()[0])[:160]}"
    found = [
        target.records(
            options,
            _with_told_ranges(plan_of(matches[n], model), manifest),
            model,
            checkpoint,
            family,
            manifest.choices,
        )
        for n in fitting
    ]
    alike = (each for each in found if not list(_plan(manifest, each.plan)))
    return next(alike, found[0])


def _with_told_ranges(plan: QuantizationPlan, manifest: Manifest) -> QuantizationPlan:
    """Return a recipe's plan with the ranges of the manifest, which calibration found."""
    told = {n: g.parameters for g in manifest.quantization for n in g.modules}
    ranges = {name: _range(told.get(name, {})) for name in plan.calibrated}
    return plan.with_ranges({name: found or (0.0, 1.0) for name, found in ranges.items()})


def _range(parameters: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the ends of a usable range of inputs, or None."""
    ends = [parameters.get(name) for name in ("low", "high")]
    low, high = (float(end) if isinstance(end, int | float) else math.nan for end in ends)
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low <= high else None


def _ranges(manifest: Manifest, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with ranges, and with what is told of their calibration."""
    static = [group for group in manifest.quantization if group.scheme in _CALIBRATED]
    for group in static:
        if _range(group.parameters) is None:
            ends = f"{group.parameters.get('low')} to {group.parameters.get('high')}"
            yield f"manifest.json: quantization has {_short(ends)} as range of {group.modules[0]}"
    if static and manifest.calibration is None:
        yield "manifest.json: it has ranges, and not what calibrated them"
    if manifest.calibration is not None:
        told = manifest.calibration
        rules = [recipe.quantization, *(target.quantization for target in recipe.targets)]
        specs = [each.calibration for each in rules if each and each.calibration]
        if not any((s.method, s.count >= told.clips) == (told.method, True) for s in specs):
            yield f"manifest.json: calibration is {told.method}, as recipe.yaml has none"


def _no_target(
    manifest: Manifest, recipe: Recipe, same_kind: list[int], options: TargetOptions
) -> str:
    if not same_kind:
        return f"recipe.yaml has no target of the kind {manifest.kind}, which the manifest names"
    name, ours, theirs = _other_options(recipe.targets[same_kind[0]].options, options)[0]
    return f"manifest.json: options.{name} is {_short(ours)}, and {_short(theirs)} in recipe.yaml"


def _other_options(
    written: Mapping[str, Any], options: TargetOptions
) -> list[tuple[str, object, object]]:
    """Return the options that a recipe sets and a manifest has otherwise.

    Those that a build chooses by itself are `auto` in the recipe.
    """
    told = options.model_dump(mode="json")
    return [
        (name, told.get(name), value)
        for name, value in written.items()
        if not _is_open(value) and told.get(name) != value
    ]


def _is_open(value: object) -> bool:
    """Return whether a build settles an option, and so writes it otherwise than the recipe."""
    return value == "auto" or isinstance(value, dict)


def _plan(manifest: Manifest, expected: QuantizationPlan) -> Iterator[str]:
    """Yield where a manifest's plan is another than the recipe's."""
    told, right = _schemes(manifest.quantization), _schemes_of(expected)
    for group in _changed(told, right).items():
        (was, is_right), modules = group
        yield (
            f"manifest.json: quantization has {listed(modules)} as {was}, "
            f"and recipe.yaml makes it {is_right}"
        )


def _changed(told: Mapping[str, str], right: Mapping[str, str]) -> dict[tuple[str, str], list[str]]:
    """Return the modules that differ, by their scheme in the manifest and the right one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in {**right, **told}:
        pair = told.get(name, "left out"), right.get(name, "left out")
        if pair[0] != pair[1]:
            groups.setdefault(pair, []).append(name)
    return groups


def _schemes(groups: tuple[QuantizedModules, ...]) -> dict[str, str]:
    return {
        name: _label(group.scheme, group.parameters) for group in groups for name in group.modules
    }


def _schemes_of(plan: QuantizationPlan) -> dict[str, str]:
    return {name: _label(one.name, one.parameters) for name, one in plan.modules.items()}


def _label(scheme: str, parameters: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key} {value}" for key, value in sorted(parameters.items()))
    return harmless(f"{scheme} ({shown})" if shown else scheme)[:80]


def _short(value: object) -> str:
    text = f"{value:,}" if type(value) is int else harmless(str(value))
    return text if len(text) <= 24 else f"{text[:12]}..."
