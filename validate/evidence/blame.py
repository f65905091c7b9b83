"""Which groups of modules cause an artifact's word errors, where its gate fails for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from exporter.artifact.evidence import Agreement, Faithfulness, GroupEffect, short
from exporter.artifact.manifest import Manifest
from exporter.artifact.report import Check
from exporter.errors import BuildError, MachineError, ResourceError
from exporter.system import worker
from exporter.system.progress import Progress
from exporter.validate.evidence.results import SensitivityRequest
from exporter.validate.measure.model import ModelSpec

_log = logging.getLogger(__name__)
_MEASURE = "exporter.validate.evidence.sensitivity:measure"  # by name, since it imports torch
CLIPS, MOST_GROUPS, LIMIT_S = 4, 30, 120.0
WORDS = {"wer", "texts"}
_SHARES = (0.9, 0.5)
# If one of these did not pass either, the artifact is not what its plan says: not the plan is to
# blame.
_NOT_THE_PLAN = {
    *("reference", "plan", "companions", "weights", "ranges", "features", "faithful"),
    *("inputs", "positions", "finite", "shapes"),
}
_ROUNDED = {"faithful", "inputs", "positions"}  # of these, by the rounding of activations alone
_EXPLAINED = 0.5  # of the artifact's divergence from the original


def is_due(checks: Sequence[Check], found: Faithfulness | None = None) -> bool:
    """Return True if words were lost, and nothing but the plan explains it.

    Where activations have outliers, one of them rounded otherwise changes single steps by more
    than rounding usually does. So an artifact whose numbers are the plan's without rounding is
    taken for what its plan says.

    Args:
        checks: The checks of the report.
        found: The comparison with the plan's own numbers.
    """
    failed = {check.name for check in checks if check.passed is False}
    unclear = {check.name for check in checks if check.passed is None}
    others = _NOT_THE_PLAN - _ROUNDED if _is_exact(found) else _NOT_THE_PLAN
    return bool(failed & WORDS) and not (failed | unclear) & others


def _is_exact(found: Faithfulness | None) -> bool:
    if found is None or found.exact_distance is None or found.exact_limit is None:
        return False
    return found.exact_distance <= found.exact_limit


def explains(
    effects: Sequence[GroupEffect], checks: Sequence[Check], agreement: Agreement | None
) -> bool:
    """Return False if some steps are not the plan's, and the groups do too little to cause them.

    Args:
        effects: What each group does; empty if that was not measured.
        checks: The checks of the report.
        agreement: The artifact against the original.
    """
    if all(check.passed for check in checks if check.name in _ROUNDED):
        return True
    whole = 0.0 if agreement is None else agreement.kl_mean
    return bool(effects) and sum(effect.kl_mean for effect in effects) >= _EXPLAINED * whole


def effects_of(
    original: ModelSpec, manifest: Manifest, clips: Sequence[Path], what: str, progress: Progress
) -> tuple[GroupEffect, ...]:
    """Measure what each group of an artifact's plan does to its original, quantized alone.

    Args:
        original: The original.
        manifest: The artifact's manifest.
        clips: Recordings.
        what: The artifact, for messages.
        progress: Called with the current activity.

    Returns:
        At most `MOST_GROUPS` groups; none if they would take longer than `LIMIT_S`, or cannot be
        measured here.
    """
    from exporter.families import FAMILIES  # late, since it imports torch
    from exporter.quantization.groups import module_groups
    from exporter.quantization.plan import QuantizationPlan, shared_tables

    plan = QuantizationPlan.from_data(g.model_dump(mode="json") for g in manifest.quantization)
    family = FAMILIES[manifest.family]
    shared = shared_tables(family.TIED, ())
    groups = module_groups(list(plan.quantized), family.HEAD, shared, MOST_GROUPS)
    if not 0 < len(groups) <= MOST_GROUPS:
        return ()
    request = SensitivityRequest(
        original=original,
        clips=tuple(clips),
        groups={group.name: group.modules for group in groups},
        manifest=manifest.model_copy(update={"files": ()}),
        plan=tuple(plan.as_data()),
        limit_s=LIMIT_S,
    )
    return _measured(request, what, progress)


def _measured(
    request: SensitivityRequest, what: str, progress: Progress
) -> tuple[GroupEffect, ...]:
    effects: list[GroupEffect] = []

    def keep(result: Mapping[str, Any]) -> None:
        if "effect" in result:
            effects.append(GroupEffect.model_validate(result["effect"]))

    def prefixed(doing: str, done: float | None) -> None:
        progress(f"original of {what}: {doing}", done)

    plain, threads = request.model_dump(mode="json"), request.original.threads
    try:
        worker.run(_MEASURE, plain, prefixed, what=what, threads=threads, on_result=keep)
    except (ResourceError, BuildError, MachineError) as error:  # the verdict stands without it
        _log.warning("%s: the groups of modules cannot be compared: %s", what, error)
        return ()
    return tuple(effects)


def most_to_blame(effects: Sequence[GroupEffect]) -> list[GroupEffect]:
    """Return the few groups that cause nearly all of the divergence, or at least half of it.

    They are at most a fifth of the groups, or one. If it is spread over more, there are none.
    """
    ranked = sorted(effects, key=lambda effect: -effect.kl_mean)
    sums = list(accumulate(effect.kl_mean for effect in ranked))
    for share in _SHARES:
        count = next((n for n, seen in enumerate(sums, 1) if 0 < share * sums[-1] <= seen), None)
        if count is not None and count <= max(1, len(ranked) // 5):
            return ranked[:count]
    return []


def search_of(manifest: Manifest, target: str) -> str:
    """Return the command that searches a plan for a target; it needs clips if its recipe has none.

    Args:
        manifest: The artifact's manifest.
        target: The target's name in the recipe.
    """
    clips = "" if manifest.calibration else " --clips FOLDER"
    return f"`exporter tune {manifest.recipe.source} -t {target}{clips}`"


def advice_on(effects: Sequence[GroupEffect], command: str, *, frames: bool) -> str:
    """Return sentences on which groups to keep in float, for the check that failed.

    Args:
        effects: What each group does; empty if that was not measured.
        command: The command that searches a plan.
        frames: Whether each frame has a distribution over the tokens, without a decoder.
    """
    if not effects:
        return f"To tell which modules cause it takes longer than a validation: {command} does it."
    blamed, tokens = most_to_blame(effects), "frames" if frames else "next tokens"
    if not blamed:
        worst = max(effects, key=lambda effect: effect.kl_mean)
        return (
            f"No group of modules stands out: quantized alone, {worst.name} changes the "
            f"{tokens} most, by a KL divergence of {short(worst.kl_mean)}. {command} searches for "
            "a plan."
        )
    told = "; ".join(f"{effect.name} (KL {short(effect.kl_mean)})" for effect in blamed)
    return (
        f"Most of it comes from {told}, by the {tokens} with each group quantized alone: "
        f"{command} finds a plan that keeps such modules in float."
    )
