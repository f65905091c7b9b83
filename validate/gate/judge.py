"""Compare two measurements with the gate: pure functions, without files and clocks.

A check that the data cannot decide is undecided, and then the artifact does not pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.artifact.report import (
    Check,
    ClipErrors,
    CorpusFacts,
    Figures,
    Interval,
    LookStamp,
    Slice,
    UnitStamp,
    Verdict,
)
from exporter.recipe import Gate
from exporter.validate.gate.corpus import corpus_checks
from exporter.validate.gate.latency import (
    Times,
    by_length,
    check_latency,
    check_lengths,
    speed,
    undecided,
)
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.shapes import ShapeCheck
from exporter.validate.scoring.compare import Comparison, ScoredRun
from exporter.validate.scoring.statistics import LEVEL, Counts, rate_difference, units_needed
from exporter.validate.scoring.units import Units
from exporter.validate.scoring.wer import Scores

WORST = 20
REFERENCE = "reference"  # the check of an original that is not the artifact's own
_LEAST_LIKENESS = 0.8
_WORSE = (
    "Usual causes: a layer or a weight that does not bear the scheme's precision, or weights, "
    "tokenizer or settings other than the checkpoint's. Read the changed transcripts in "
    "report.html, and keep sensitive layers in float (`quantization.modules`)."
)
_CRASHES = (
    "Usual cause: a graph with a batch or a length that was traced as a constant. Export it with "
    "these axes dynamic."
)
_MIXED = (
    "Usual causes: padding that takes part in attention, or rows of a batch that share a cache, "
    "positions or a stopping condition."
)
_INFINITE = (
    "Usual causes: a scale that is zero or NaN, an overflow in float16, a mask of infinities over "
    "a whole row."
)
_UNSEEN = "The model must pass its outputs to Python as tensors or arrays, to be looked at."
_DEGENERATE = (
    "Usual causes: end-of-text or suppressed tokens other than the checkpoint's, a decoder cache "
    "out of step with its positions, wrong features of the audio. report.html shows these texts."
)
_MORE_DATA = (
    "Give more clips, of more speakers; or a wider gate, if the interval's end would be acceptable."
)


@dataclass(frozen=True)
class Judgement:
    """The verdict, one sentence for it, and the checks and intervals it is based on."""

    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    wer_difference: Interval
    cer_difference: Interval
    latency_ratio: Interval
    latency_ratio_p95: float
    units: UnitStamp


def judge(
    case: Comparison,
    gate: Gate,
    files: int,
    corpus: CorpusFacts | None = None,
    found: Sequence[Check] = (),
    looks: LookStamp | None = None,
    *,
    timed: bool = True,
) -> Judgement:
    """Apply every check of the gate.

    Args:
        case: Both sides, scored on the same clips.
        gate: The limits, from the recipe.
        files: Number of sealed files whose hashes were verified.
        corpus: What the clips are; None: only what scoring them has counted.
        found: Checks of what was found beyond the corpus.
        looks: The looks at the clips, whose level the intervals have; None: one, at all.
        timed: Whether the times may be judged; else latency is undecided.

    Returns:
        The verdict with its checks; intervals are candidate against reference.
    """
    ours, theirs, units = case.reference.scores, case.candidate.scores, case.units
    facts = corpus or case.corpus_facts()
    level = looks.level if looks else LEVEL
    wer = rate_difference(ours.errors, theirs.errors, ours.words, units.index, level)
    characters = ours.character_errors, theirs.character_errors, ours.characters
    cer = rate_difference(*characters, units.index, level)
    times = Times(case.durations_s[case.timed], case.reference.seconds, case.candidate.seconds)
    latency = check_latency(times, gate.max_latency_ratio, _busy(case))
    lengths = check_lengths(times, gate.max_latency_ratio, latency.passed)
    checks = (
        Check(name="files", passed=True, value=files, sentence=f"All {files} files are as sealed."),
        *found,
        *_structure(case.reference.measurement, case.candidate.measurement),
        _degenerate(case),
        *corpus_checks(facts, len(case.durations_s), _rate(ours), gate),
        _wer(wer, gate.max_wer_increase, units.stamp, looks, len(case.durations_s)),
        *((latency, lengths) if timed else map(undecided, (latency, lengths))),
    )
    verdict, ratio = verdict_of(checks), times.ratio
    sentence = sentence_of(verdict, checks, wer, ratio)
    return Judgement(verdict, sentence, checks, wer, cer, ratio, times.p95, units.stamp)


def settled(case: Comparison, gate: Gate, level: float) -> bool:
    """Return whether the verdict on words is certain, so that no more clips need to be heard.

    It is once the interval lies on one side of the limit, or a text has degenerated. To pass, the
    gate also asks for a number of different recordings, of which more clips have more.

    Args:
        case: Both sides, scored on the clips that were heard.
        gate: The limits, from the recipe.
        level: The confidence level of this look.
    """
    if _degenerate(case).passed is False:
        return True
    ours, theirs, units = case.reference.scores, case.candidate.scores, case.units
    words = rate_difference(ours.errors, theirs.errors, ours.words, units.index, level)
    if words.high <= gate.max_wer_increase:
        return case.corpus_facts().recordings >= gate.min_clips
    return words.low > gate.max_wer_increase


def obstacles(
    words: Counts,
    gate: Gate,
    units: Units,
    recordings: int | None = None,
    level: float = LEVEL,
) -> list[str]:
    """Tell why even an artifact that changes no word of its original could not pass.

    Args:
        words: Words of each clip's true text, int64 [clips].
        gate: The limits, from the recipe.
        units: What the bootstrap will resample.
        recordings: The number of different recordings, if some clips are copies.
        level: The confidence level of the interval.

    Returns:
        Sentences; none if the gate can pass.
    """
    told, limit, total = [], gate.max_wer_increase, int(words.sum())
    different = len(words) if recordings is None else recordings
    if different < gate.min_clips:
        few = f"{len(words)} clips are"
        if different < len(words):
            few = f"{len(words)} clips are {different} different recordings,"
        told.append(f"{few} fewer than gate.min_clips, {gate.min_clips}")
    if not limit:
        told.append(
            "gate.max_wer_increase 0 has no room for the interval of unchanged texts, "
            "however many clips there are"
        )
    elif total:
        same = np.zeros_like(words)
        end = rate_difference(same, same, words, units.index, level).high
        if end > limit:
            told.append(
                f"with {total:,} words, the interval of unchanged texts ends at {points(end)}, "
                f"beyond gate.max_wer_increase, {points(limit)}: "
                f"about {total * end / limit:,.0f} words are needed"
            )
    return told


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return failed if any check failed, else undecided if any is undecided, else passed."""
    if any(check.passed is False for check in checks):
        return "failed"
    return "passed" if all(check.passed for check in checks) else "undecided"


def points(rate: float) -> str:
    """Format a difference of rates as percentage points with a sign."""
    return f"{100 * rate:+.2f} points"


def percent(level: float) -> str:
    """Format a confidence level, without a sign."""
    return f"{100 * level:.4g}"


def span(interval: Interval) -> str:
    """Format an interval of a difference of rates, in percentage points."""
    return f"{100 * interval.low:+.2f} to {points(interval.high)}"


def _structure(reference: Measurement, candidate: Measurement) -> tuple[Check, Check]:
    """Check that unusual batches run, give the same text as single clips, and stay finite.

    Failures that the original has too (on a very short clip, say) do not count.
    """
    both = list(zip(candidate.shapes, reference.shapes, strict=True))
    broken = [probe for probe, ours in both if probe.error and not ours.error]
    unlike = [probe for probe, ours in both if _odd(probe) and not _odd(ours)]
    if broken:
        sentence = f"A batch of {len(broken[0].lengths_s)} clips crashes: {broken[0].error}"
        advice = _CRASHES
    elif unlike:
        sentence = (
            f"A batch of {len(unlike[0].lengths_s)} clips gives other text than they give alone."
        )
        advice = _MIXED
    else:
        sentence = f"{len(both)} batches of unusual sizes and lengths give the text expected."
        advice = ""
    good = not broken and not unlike
    finite = _finite(candidate)
    words = {
        True: "Every output is finite.",
        False: "Outputs hold NaN or infinity.",
        None: "The outputs could not be observed.",
    }
    return (
        Check(name="shapes", passed=good, value=len(both), sentence=sentence, advice=advice),
        Check(
            name="finite",
            passed=finite,
            sentence=words[finite],
            advice={True: "", False: _INFINITE, None: _UNSEEN}[finite],
        ),
    )


def _finite(measured: Measurement) -> bool | None:
    """Return whether all outputs that were seen are finite; None without one.

    Graphs that leave their logits on a card show none in the batches: those of given texts, decoded
    step by step, are taken instead.
    """
    seen = [probe.finite for probe in measured.shapes if probe.finite is not None]
    if not seen and measured.findings is not None:
        seen = [steps.finite for steps in measured.findings.steps if not steps.error]
    return all(seen) if seen else None


def _odd(probe: ShapeCheck) -> bool:
    return probe.likeness is not None and probe.likeness < _LEAST_LIKENESS


def _degenerate(case: Comparison) -> Check:
    """Check for degenerate texts where neither truth nor reference has them."""
    empty, looping, unusable = case.newly_empty, case.newly_looping, case.newly_unusable
    sentence = "No transcript is empty or repeats itself where the original's does not."
    if empty or looping:
        sentence = (
            f"{empty} texts are empty and {looping} repeat themselves, unlike the original's."
        )
    if unusable:
        sentence += f" {unusable} texts cannot be normalised, and count as wrong in all words."
    return Check(
        name="texts",
        passed=not empty + looping + unusable,
        value=empty + looping + unusable,
        limit=0,
        sentence=sentence,
        advice=_DEGENERATE if empty + looping + unusable else "",
    )


def _wer(
    difference: Interval, most: float, units: UnitStamp, looks: LookStamp | None, heard: int
) -> Check:
    """Test non-inferiority: the whole interval must lie below the limit, not just the estimate."""
    sentence = f"WER {points(difference.value)} ({percent(difference.level)} % interval "
    sentence += f"{span(difference)}; at most {points(most)} allowed)"
    passed: bool | None = None
    advice = ""
    if difference.high <= most:
        passed = True
    elif difference.low > most:
        passed = False
        advice = _WORSE
    else:
        needed = units_needed(difference, most, units.count)
        sentence += f": not enough {units.name}s to tell, "
        sentence += (
            f"about {needed:,} like these are needed" if needed else "it is too close to the gate"
        )
        advice = _MORE_DATA
        if looks and looks.planned[looks.made - 1] < looks.planned[-1]:
            advice = "Hear the other clips too, with `--until all`."
    return Check(
        name="wer",
        passed=passed,
        value=difference.high,
        limit=most,
        sentence=f"{sentence}. {_looked(looks, heard)}{units.sentence}",
        advice=advice,
    )


def _looked(looks: LookStamp | None, heard: int) -> str:
    """Tell how many of the clips were heard: those of a look without what could not be read."""
    if looks is None:
        return ""
    which = f"look {looks.made} of {len(looks.planned)}"
    return f"{heard:,} of {looks.planned[-1]:,} clips were heard ({which}). "


def _busy(case: Comparison) -> str:
    """Warn if other work ran; a measurement by itself causes a load of about `threads`."""
    load = max(one.measurement.load_average for one in (case.reference, case.candidate))
    busy = load > 1.5 * case.candidate.measurement.threads
    return (
        f" The machine was busy (load average {load:.1f}): do not trust the times." if busy else ""
    )


def sentence_of(verdict: Verdict, checks: Sequence[Check], wer: Interval, ratio: Interval) -> str:
    """Summarise the verdict: the decisive checks, or if passed, the WER and the speed."""
    if verdict == "passed":
        return f"WER {points(wer.value)}, at most {points(wer.high)}; {speed(ratio.value)}."
    wanted = False if verdict == "failed" else None
    decisive = [c for c in checks if c.passed is wanted or c.name == REFERENCE]
    if any(check.name == "latency" for check in decisive):  # says it of all lengths
        decisive = [check for check in decisive if check.name != "lengths"]
    return " ".join(f"{check.sentence} {check.advice}".strip() for check in decisive)


def _rate(scores: Scores) -> float:
    return float(scores.errors.sum() / scores.words.sum())


def figures(run: ScoredRun, timed_audio_s: float) -> Figures:
    """Aggregate one side: errors over all clips, times over the timed clips.

    Args:
        run: The side.
        timed_audio_s: Seconds of audio in the timed clips.
    """
    scores, seconds, measured = run.scores, run.seconds, run.measurement
    return Figures(
        wer=_rate(scores),
        cer=float(scores.character_errors.sum() / scores.characters.sum()),
        words=int(scores.words.sum()),
        substitutions=int(scores.substitutions.sum()),
        deletions=int(scores.deletions.sum()),
        insertions=int(scores.insertions.sum()),
        characters=int(scores.characters.sum()),
        character_errors=int(scores.character_errors.sum()),
        empty_texts=run.empty_texts,
        looping_texts=run.looping_texts,
        unusable_texts=run.unusable_texts,
        tokens=run.tokens,
        latency_median_s=float(np.median(seconds)),
        latency_p95_s=float(np.quantile(seconds, 0.95)),
        rtf=float(seconds.sum() / timed_audio_s),
        rtfx=float(timed_audio_s / seconds.sum()),
        load_s=measured.load_s,
        first_s=measured.first_s,
        device_memory_bytes=measured.device_memory_bytes,
        peak_rss_bytes=measured.peak_rss_bytes,
        size_bytes=run.size_bytes,
        passes=measured.passes,
        load_average=measured.load_average,
    )


def slices(case: Comparison) -> tuple[Slice, ...]:
    """Return error rates by duration: regressions often affect long clips only."""
    durations, rows = case.durations_s, []
    for name, inside in by_length(durations):
        words = int(case.reference.scores.words[inside].sum())
        rates = [
            float(one.scores.errors[inside].sum() / words) if words else None
            for one in (case.reference, case.candidate)
        ]
        timed = inside[case.timed]
        ratios = case.candidate.seconds[timed] / case.reference.seconds[timed]
        rows.append(
            Slice(
                name=name,
                clips=int(inside.sum()),
                audio_s=float(durations[inside].sum()),
                words=words,
                wer_reference=rates[0],
                wer=rates[1],
                latency_ratio=float(np.median(ratios)) if len(ratios) else None,
            )
        )
    return tuple(rows)


def most_changed(case: Comparison) -> list[int]:
    """Return the indices of clips whose transcripts differ, by errors added, most first."""
    harm = _harm(case)[case.changed]
    return [int(place) for place in case.changed[np.argsort(-harm, kind="stable")]]


def worst_places(case: Comparison) -> list[int]:
    """Return clip indices sorted by errors added over the reference, then by errors."""
    errors = case.candidate.scores.errors
    order = np.lexsort((-errors, -_harm(case)))[:WORST]
    return [int(place) for place in order if errors[place]]


def worst(case: Comparison) -> tuple[ClipErrors, ...]:
    """Return the worst clips: most errors added over the reference, then most errors."""
    ours, theirs = case.reference.scores, case.candidate.scores
    return tuple(
        ClipErrors(
            id=texts.id,
            words=int(ours.words[place]),
            errors_reference=int(ours.errors[place]),
            errors=int(theirs.errors[place]),
            text=texts.truth,
            pred_text_reference=texts.reference,
            pred_text=texts.candidate,
        )
        for place, texts in ((place, case.texts(place)) for place in worst_places(case))
    )


def _harm(case: Comparison) -> Counts:
    """Return the candidate's errors minus the reference's, int64 [clips]."""
    return case.candidate.scores.errors - case.reference.scores.errors
