"""The checks of what was found beyond the corpus: see `exporter.validate.evidence`.

All bounds are multiples of what rounding alone does to the same model on the same inputs, so they
need no table of depths and widths. The multiples come from the honest builds of `tests/damage`;
docs/validation.md has the greatest ones that were measured, and the margins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.artifact.evidence import Agreement, Faithfulness
from exporter.artifact.report import Check
from exporter.validate.evidence.results import (
    Consistency,
    Findings,
    ModuleDistance,
    RangeFit,
    Resources,
    Steps,
)

# Of all clips together, of one input, and of one step.
LIMIT, CASE_LIMIT, STEP_LIMIT = 1.35, 1.7, 6.0
ROUNDED_CASE_LIMIT = 3.0
# Without rounding of activations only float32's own rounding is left. It is less than what the
# shaken features do, but for int8 caches, whose codes flip now and then. How far it goes does not
# follow the shaken features: the demo's wav2vec2 in onnx-int8 has 4.4e-5 on clips of many speeds.
EXACT_LIMIT, EXACT_STEP_LIMIT = 5.0, 40.0
_EXACT_FLOOR, _EXACT_STEP_FLOOR = 5e-5, 2e-4
_MODULE_LIMIT, _EXACT_MODULE_LIMIT = 1.6, 10.0
_MODULE_FLOOR = 5e-5
_FEATURES = 1e-3  # log-mel features lie between about -1 and 2
_ASKED = {"repeat": 0.5, "prompts": 2.0, "batches": 2.0, "beams": 2.0, "graphs": 6.0}
_ASKED_FLOOR = 1e-4
# Times what chance explains. An error that is four times as large is a bit of precision less. Of
# methods that follow a few extremes, halves of the clips do not show all of the chance.
RANGE_LIMITS = {"mse": 2.5, "percentile": 2.5, "minmax": 4.0, "entropy": 4.0}
_GROWTH_BYTES, _MORE_BYTES, _MORE = 96 << 20, 256 << 20, 1.25
_SLOWER, _SLACK_S = 4.0, 0.02
_SAME_LENGTH = 1.05  # of the shortest of some inputs

_BUILD_AGAIN = "Build it again with --force, and tell us if that does not help."


@dataclass(frozen=True)
class Evidence:
    """What was found about an artifact, and the memory of both sides.

    `weights` are sentences on weights that differ, `ranges` tell how ranges of inputs fit; the
    peaks are resident bytes.
    """

    findings: Findings
    weights: Sequence[str]
    peak_bytes: int
    original_peak_bytes: int
    ranges: Sequence[RangeFit] = ()


def checks_of(evidence: Evidence) -> tuple[Check, ...]:
    """Return all checks of the evidence; each sentence says what was found and where."""
    found = evidence.findings
    return (
        _weights(evidence.weights),
        *_ranges(evidence.ranges),
        _features(found),
        _faithful(found),
        _inputs(found),
        _positions(found),
        *_asked(found),
        *_memory(evidence),
        *_length(found),
    )


def agreement_of(found: Findings) -> Agreement:
    """Summarise how the next tokens agree with the original's."""
    clips = [steps for steps in found.steps if steps.clip]
    divergence = np.concatenate([steps.kl_original for steps in clips])
    same = np.concatenate([steps.top1_original for steps in clips])
    return Agreement(
        clips=len(clips),
        steps=len(divergence),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        top1=float(same.mean()),
        frames=not found.decoder,
    )


def faithfulness_of(found: Findings) -> Faithfulness:
    """Summarise how far the logits lie from the simulated artifact's."""
    clips = [steps for steps in found.steps if steps.clip]
    longest = max(len(steps.distance) for steps in clips)
    by_step = [
        max(s.distance[place] for s in clips if place < len(s.distance)) / found.noise
        for place in range(longest)
    ]
    exact = [steps.exact for steps in clips if steps.exact is not None]
    return Faithfulness(
        distance=_rms(np.concatenate([steps.distance for steps in clips])),
        noise=found.noise,
        limit=LIMIT,
        exact_distance=_rms(np.concatenate(exact)) if exact else None,
        exact_noise=found.exact_noise if exact else None,
        exact_limit=_exact_limit(found) if exact else None,
        by_step=tuple(by_step),
        step_limit=STEP_LIMIT,
        seconds=found.seconds,
    )


def _rms(values: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _exact_limit(found: Findings) -> float:
    return EXACT_LIMIT * (found.exact_noise or 0.0) + _EXACT_FLOOR


def _weights(differing: Sequence[str]) -> Check:
    if not differing:
        sentence = "All weights are what the plan makes of the checkpoint, number for number."
        return Check(name="weights", passed=True, value=0, limit=0, sentence=sentence)
    return Check(
        name="weights",
        passed=False,
        value=len(differing),
        limit=0,
        sentence=f"{'; '.join(differing)}.",
        advice="Usually these are weights of another checkpoint, or a file that was changed after "
        f"the build. {_BUILD_AGAIN}",
    )


def _ranges(fits: Sequence[RangeFit]) -> Iterator[Check]:
    """Check the ranges of static quantization, if there are any."""
    if not fits:
        return
    worst = max(fits, key=lambda fit: fit.times / _range_limit(fit))
    limit = _range_limit(worst)
    limits = {"name": "ranges", "value": worst.times, "limit": limit}
    if worst.times <= limit:
        sentence = (
            f"The ranges of {len(fits)} modules' inputs fit the clips: quantizing them costs "
            f"{worst.times:.2f} times the error that {worst.method} would leave on these (at most "
            f"{limit:.2f} allowed)."
        )
        yield Check(passed=True, sentence=sentence, **limits)
        return
    others = sum(fit.times > _range_limit(fit) for fit in fits) - 1
    more = f" {others} more {'do' if others > 1 else 'does'} not fit." if others else ""
    yield Check(
        passed=False,
        sentence=f"The range of {worst.module} does not fit its inputs: it is "
        f"{_ends(worst.range)}, and {worst.method} chooses {_ends(worst.seen)} of these clips. "
        f"Quantizing them costs {worst.times:,.3g} times the error (at most {limit:.2f} "
        f"allowed).{more}",
        advice="Usually the recordings of `calibration` are unlike these, or a range is another "
        "module's. Calibrate on recordings like those that users have, and build it again with "
        "--force.",
        **limits,
    )


def _range_limit(fit: RangeFit) -> float:
    return RANGE_LIMITS[fit.method] * fit.chance


def _ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"


def _features(found: Findings) -> Check:
    worst = max(found.features, key=lambda name: found.features[name])
    value = found.features[worst]
    if value <= _FEATURES:
        sentence = f"Its features of {len(found.features)} inputs are the original's."
        return Check(name="features", passed=True, value=value, limit=_FEATURES, sentence=sentence)
    return Check(
        name="features",
        passed=False,
        value=value,
        limit=_FEATURES,
        sentence=f"The features of {worst} differ from the original's by up to {value:.3g}.",
        advice="Usually preprocessor_config.json is another model's: compare it with the "
        f"checkpoint's. {_BUILD_AGAIN}",
    )


@dataclass(frozen=True)
class _Excess:
    """How far one input lies beyond its bound; `step` is None for all steps together."""

    over: float
    steps: Steps
    step: int | None
    times: float
    exact: bool


def _excesses(found: Findings, cases: Sequence[Steps]) -> Iterator[_Excess]:
    for steps in cases:
        ratios = np.array(steps.distance) / found.noise
        # Where the comparison without rounding is the sharp one, this one need not be.
        most = CASE_LIMIT if steps.exact is None else ROUNDED_CASE_LIMIT
        yield _Excess(_rms(ratios) / most, steps, None, _rms(ratios), exact=False)
        step = int(ratios.argmax())
        yield _Excess(ratios[step] / STEP_LIMIT, steps, step, ratios[step], exact=False)
        if steps.exact is None or found.exact_noise is None:
            continue
        exact, noise = np.array(steps.exact), found.exact_noise
        most = EXACT_STEP_LIMIT * noise + _EXACT_STEP_FLOOR
        step = int(exact.argmax())
        yield _Excess(exact[step] / most, steps, step, exact[step] / noise, exact=True)


def _rank(excess: _Excess) -> tuple[bool, float]:
    """Sort by how far it is beyond its bound; a step beyond it says more than a whole input."""
    return excess.over > 1 and excess.step is not None, excess.over


def _faithful(found: Findings) -> Check:
    """Check the clips: all together, each, and each step."""
    summary = faithfulness_of(found)
    value = summary.distance / summary.noise
    worst = max(_excesses(found, [s for s in found.steps if s.clip]), key=_rank)
    exact_over = (summary.exact_distance or 0.0) / (summary.exact_limit or 1.0)
    if found.inexact:
        return Check(
            name="faithful",
            passed=False,
            value=value,
            limit=LIMIT,
            sentence="Its graphs cannot be computed without rounding of activations, so they are "
            f"not as a build writes them ({found.inexact}).",
            advice=_BUILD_AGAIN,
        )
    if worst.over <= 1 and value <= LIMIT and exact_over <= 1:
        sentence = (
            f"Its logits lie as far from the plan's own numbers as rounding explains: {value:.2f} "
            f"times (at most {LIMIT:.2f} allowed)."
        )
        return Check(name="faithful", passed=True, value=value, limit=LIMIT, sentence=sentence)
    return Check(
        name="faithful",
        passed=False,
        value=value,
        limit=LIMIT,
        sentence=_told(worst, found),
        advice=_why(_first_module(found)),
    )


def _told(worst: _Excess, found: Findings) -> str:
    """Tell the worst input, its step, how far it is beyond rounding, and where that begins."""
    steps, where = worst.steps, ""
    if steps.error:
        return f"It fails on {steps.name}: {steps.error}."
    if not steps.finite:
        return f"The logits of {steps.name} are NaN or infinite from step {steps.first} on."
    if worst.step is not None:
        where = f", step {worst.step + 1} of {len(steps.distance)}"
    how = " without rounding of activations" if worst.exact else ""
    sentence = (
        f"On {steps.name}{where}, its logits lie {worst.times:,.3g} times as far from the plan's "
        f"own numbers{how} as rounding explains"
    )
    module = _first_module(found)
    return f"{sentence}; the first module that differs is {module}." if module else f"{sentence}."


def _first_module(found: Findings) -> str:
    """Return the first module in the order of computation whose outputs differ."""
    for modules, times in (
        (found.exact_modules, _EXACT_MODULE_LIMIT),
        (found.modules, _MODULE_LIMIT),
    ):
        for each in modules:
            if _differs(each, times):
                return each.module
    return "proj_out" if found.modules else ""


def _differs(module: ModuleDistance, times: float) -> bool:
    return module.distance > times * module.noise + _MODULE_FLOOR


_CAUSES = (
    ("feature_projection.layer_norm", "the convolutions of the front end, or their norms"),
    ("encoder.layers.0.self_attn_layer_norm", "convolutions, or positions of the encoder"),
    ("decoder.layers.0.self_attn", "token or position embeddings, or their indices"),
    ("encoder_attn.", "a projection of the audio's keys and values, or their cache"),
    ("encoder_attn_layer_norm", "self-attention: its mask, scale, heads or cache"),
    ("final_layer_norm", "attention: its mask, scale, heads or projections"),
    ("self_attn.", "a projection of keys and values, or the feed-forward block before it"),
    ("self_attn_layer_norm", "the feed-forward block before it, or its activation function"),
    ("encoder.layers.", "attention or the feed-forward block of this layer, or of the one before"),
    ("layer_norm", "the last layer's feed-forward block, or this norm's epsilon or weights"),
    ("proj_out", "the projection to the vocabulary"),
)


def _why(module: str) -> str:
    cause = next((text for part, text in _CAUSES if part in module), "")
    usual = f"That points to {cause}. " if cause else ""
    return f"{usual}{_BUILD_AGAIN}"


def _inputs(found: Findings) -> Check:
    """Check the sounds that are no clips of the corpus."""
    others = [s for s in found.steps if not s.clip and s.name != _full_name(found)]
    return _of_cases(
        "inputs",
        found,
        others,
        f"Silence, noise, loud, clipped, very short and full windows: {len(others)} inputs give "
        "the logits expected.",
    )


def _positions(found: Findings) -> Check:
    """Check the decoder up to its last position, or the longest chunk up to its last frame."""
    full = [s for s in found.steps if s.name == _full_name(found)]
    count = len(full[0].distance) if full else 0
    what = f"The decoder's {count} positions" if found.decoder else f"All {count} frames of a chunk"
    return _of_cases("positions", found, full, f"{what} give the logits expected.")


def _full_name(found: Findings) -> str:
    others = [s for s in found.steps if not s.clip]
    return max(others, key=lambda s: len(s.distance)).name if others else ""


def _of_cases(name: str, found: Findings, cases: Sequence[Steps], good: str) -> Check:
    worst = max(_excesses(found, cases), key=_rank, default=None)
    if worst is None or (worst.over <= 1 and worst.steps.finite):
        value = None if worst is None else worst.over
        return Check(name=name, passed=True, value=value, limit=1.0, sentence=good)
    return Check(
        name=name,
        passed=False,
        value=worst.over,
        limit=1.0,
        sentence=_told(worst, found),
        advice=f"Users will have such inputs, if not the corpus. {_why(_first_module(found))}",
    )


def _asked_limit(asked: Consistency, most: float) -> float:
    """Return the bound of one way of asking; `most` is a multiple of what rounding does."""
    if asked.exact:
        return asked.noise + _EXACT_FLOOR
    return most * asked.noise + _ASKED_FLOOR


_ASKED_TEXT = {
    "repeat": "The same input twice gives the same logits.",
    "prompts": "Prompts of every length give the logits of single tokens.",
    "batches": "Batches of 2, 5 and 8 clips give the logits of single clips.",
    "beams": "Hypotheses of beam searches, exchanged twice, give the logits of single texts.",
    "graphs": "The graphs that other loaders use give the logits expected.",
}
_ASKED_ADVICE = {
    "repeat": "Usually memory that is not initialized, or a random operator. ",
    "prompts": "Usually positions or the causal mask of several tokens at once. ",
    "batches": "Usually an axis that was fixed by tracing, or values that rows share. ",
    "beams": "Usually caches that are not reordered, or rows that read another row's. ",
    "graphs": "optimum and transformers.js load this graph, though this package does not. ",
}


def _asked(found: Findings) -> Iterator[Check]:
    """Check that the same, asked in another way, gives the same."""
    for name, most in _ASKED.items():
        asked = [each for each in found.consistency if each.check == name]
        if not asked:
            continue
        worst = max(asked, key=lambda each: each.distance / _asked_limit(each, most))
        limit = _asked_limit(worst, most)
        if worst.distance <= limit:
            yield Check(
                name=name,
                passed=True,
                value=worst.distance,
                limit=limit,
                sentence=_ASKED_TEXT[name],
            )
            continue
        yield Check(
            name=name,
            passed=False,
            value=worst.distance,
            limit=limit,
            sentence=f"{worst.what.capitalize()} cannot be decoded: {worst.error}."
            if worst.error
            else f"With {worst.what}, the logits lie {worst.distance / limit:,.3g} times "
            "beyond what rounding explains.",
            advice=f"{_ASKED_ADVICE[name]}{_BUILD_AGAIN}",
        )


def _memory(evidence: Evidence) -> Iterator[Check]:
    """Check that calls do not take ever more memory, nor more than the original."""
    used, ours = evidence.findings.resources, evidence.peak_bytes
    if used is None:
        return
    most = int(_MORE * evidence.original_peak_bytes) + _MORE_BYTES
    if used.growth_bytes > _GROWTH_BYTES:
        sentence = (
            f"Memory grew by {used.growth_bytes / 1e6:,.0f} MB in {used.calls} calls (at most "
            f"{_GROWTH_BYTES / 1e6:,.0f} MB allowed)."
        )
    elif ours > most:
        sentence = (
            f"It takes {ours / 1e6:,.0f} MB of memory, the float32 original "
            f"{evidence.original_peak_bytes / 1e6:,.0f} MB (at most {most / 1e6:,.0f} MB allowed)."
        )
    else:
        sentence = (
            f"Memory grew by {used.growth_bytes / 1e6:,.0f} MB in {used.calls} calls, and is less "
            "than 1.25 times the original's."
        )
        yield Check(name="memory", passed=True, value=ours, limit=most, sentence=sentence)
        return
    yield Check(
        name="memory",
        passed=False,
        value=ours,
        limit=most,
        sentence=sentence,
        advice="Usually a node whose result is much larger than it has to be, or caches that are "
        f"not released. {_BUILD_AGAIN}",
    )


def _extremes(used: Resources) -> Iterator[tuple[float, str, float]]:
    """Yield the median time of inputs of about one length, and the slowest with its time."""
    times = sorted(used.windows_s.items(), key=lambda item: used.lengths.get(item[0], 0))
    while times:
        most = _SAME_LENGTH * used.lengths.get(times[0][0], 0)
        alike = [(s, name) for name, s in times if used.lengths.get(name, 0) <= most]
        times = times[len(alike) :]
        alike.sort()
        yield (alike[(len(alike) - 1) // 2][0], alike[-1][1], alike[-1][0])


def _most(usual_s: float) -> float:
    return _SLOWER * usual_s + _SLACK_S


def _length(found: Findings) -> Iterator[Check]:
    """Check that time depends neither on what is heard nor, much, on the position."""
    used = found.resources
    if used is None:
        return
    usual, slowest, slow = max(_extremes(used), key=lambda times: times[2] / _most(times[0]))
    limit = _most(usual)
    late_limit = _SLOWER * used.early_s + _SLACK_S
    if slow <= limit and used.late_s <= late_limit:
        sentence = "Time depends neither on the sound in a window nor much on the position."
        yield Check(name="call times", passed=True, value=slow, limit=limit, sentence=sentence)
        return
    sentence = (
        f"A window of {slowest} takes {slow / usual:.1f} times as long as others."
        if slow > limit
        else f"A step takes {1000 * used.early_s:.1f} ms at the first positions and "
        f"{1000 * used.late_s:.1f} ms at the last."
    )
    yield Check(
        name="call times",
        passed=False,
        value=slow,
        limit=limit,
        sentence=sentence,
        advice="Usually work that runs for some inputs only, or a cache that is copied at every "
        f"step. {_BUILD_AGAIN}",
    )
