"""Compare two measurements with the gate: pure functions, without files and clocks.

A check that the data cannot decide is undecided, and then the artifact does not pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.artifact.report import Check, ClipErrors, Figures, Interval, Slice, Verdict
from exporter.recipe import Gate
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.shapes import ShapeCheck
from exporter.validate.scoring.compare import Comparison, ScoredRun
from exporter.validate.scoring.statistics import Counts, clips_needed, median_ratio, rate_difference

# With so many clips the median of paired ratios is known to within about 5 %.
TIMED_CLIPS = 100
WORST = 20
_SLICES = (
    ("under 5 s", 5.0),
    ("5 to 15 s", 15.0),
    ("15 to 30 s", 30.0),
    ("over 30 s", float("inf")),
)
_LEAST_LIKENESS = 0.8
# Ratio by which the times of two runs of one model may differ on all clips alike.
_DRIFT = 1.05
# Errors by which the interval of unchanged texts ends above zero: at most that.
_WORDS_NEEDED = 12


@dataclass(frozen=True)
class Judgement:
    """The verdict, one sentence for it, and the checks and intervals it is based on."""

    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    wer_difference: Interval
    cer_difference: Interval
    latency_ratio: Interval


def judge(case: Comparison, gate: Gate, files: int, found: Sequence[Check] = ()) -> Judgement:
    """Apply every check of the gate.

    Args:
        case: Both sides, scored on the same clips.
        gate: The limits, from the recipe.
        files: Number of sealed files whose hashes were verified.
        found: Checks that were made before, of the files themselves.

    Returns:
        The verdict with its checks; intervals are candidate against reference.
    """
    ours, theirs = case.reference.scores, case.candidate.scores
    wer = rate_difference(ours.errors, theirs.errors, ours.words)
    cer = rate_difference(ours.character_errors, theirs.character_errors, ours.characters)
    ratio = median_ratio(case.reference.seconds, case.candidate.seconds)
    checks = (
        Check(name="files", passed=True, value=files, sentence=f"All {files} files are as sealed."),
        *found,
        *_structure(case.reference.measurement.shapes, case.candidate.measurement.shapes),
        _degenerate(case),
        _enough(len(case.durations_s), gate.min_clips),
        _wer(wer, gate.max_wer_increase, len(case.durations_s)),
        _latency(ratio, gate.max_latency_ratio, len(case.timed), _busy(case)),
    )
    verdict = verdict_of(checks)
    return Judgement(verdict, _sentence(verdict, checks, wer, ratio), checks, wer, cer, ratio)


def obstacles(words: Counts, gate: Gate) -> list[str]:
    """Tell why even an artifact that changes no word of its original could not pass.

    Args:
        words: Words of each clip's true text, int64 [clips].
        gate: The limits, from the recipe.

    Returns:
        Sentences; none if the gate can pass.
    """
    told, limit, total = [], gate.max_wer_increase, int(words.sum())
    if len(words) < gate.min_clips:
        told.append(f"{len(words)} clips are fewer than gate.min_clips, {gate.min_clips}")
    if not limit:
        told.append(
            "gate.max_wer_increase 0 has no room for the interval of unchanged texts, "
            "however many clips there are"
        )
    elif 0 < total < _WORDS_NEEDED / limit:
        same = np.zeros_like(words)
        end = rate_difference(same, same, words).high
        if end > limit:
            told.append(
                f"with {total:,} words, the interval of unchanged texts ends at {points(end)}, "
                f"beyond gate.max_wer_increase, {points(limit)}: "
                f"about {total * end / limit:,.0f} words are needed"
            )
    return told


def too_slow(reference: Measurement, candidate: Measurement, most: float) -> bool:
    """Return whether the median latency ratio fails a gate that allows at most `most`."""
    ours, theirs = (np.array(one.seconds) for one in (reference, candidate))
    return _latency(median_ratio(ours, theirs), most, len(ours)).passed is False


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return failed if any check failed, else undecided if any is undecided, else passed."""
    if any(check.passed is False for check in checks):
        return "failed"
    return "passed" if all(check.passed for check in checks) else "undecided"


def points(rate: float) -> str:
    """Format a difference of rates as percentage points with a sign."""
    return f"{100 * rate:+.2f} points"


def span(interval: Interval) -> str:
    """Format an interval of a difference of rates, in percentage points."""
    return f"{100 * interval.low:+.2f} to {points(interval.high)}"


def speed(ratio: float) -> str:
    """Describe a latency ratio in words."""
    if ratio > 1.005:
        return f"{ratio:.2f} times SLOWER than the original"
    return f"{1 / ratio:.2f} times as fast as the original"


def _structure(
    reference: Sequence[ShapeCheck], candidate: Sequence[ShapeCheck]
) -> tuple[Check, Check]:
    """Check that unusual batches run, give the same text as single clips, and stay finite.

    Failures that the original has too (on a very short clip, say) do not count.
    """
    broken = [p for p, ours in zip(candidate, reference, strict=True) if p.error and not ours.error]
    unlike = [p for p, ours in zip(candidate, reference, strict=True) if _odd(p) and not _odd(ours)]
    if broken:
        sentence = f"A batch of {len(broken[0].lengths_s)} clips crashes: {broken[0].error}"
    elif unlike:
        sentence = (
            f"A batch of {len(unlike[0].lengths_s)} clips gives other text than they give alone."
        )
    else:
        sentence = f"{len(candidate)} batches of unusual sizes and lengths give the text expected."
    good = not broken and not unlike
    seen = [probe.finite for probe in candidate if probe.finite is not None]
    finite = all(seen) if seen else None
    words = {True: "Every output is finite.", False: "Outputs hold NaN or infinity."}
    return (
        Check(name="shapes", passed=good, value=len(candidate), sentence=sentence),
        Check(
            name="finite",
            passed=finite,
            sentence="The outputs could not be observed." if finite is None else words[finite],
        ),
    )


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
    )


def _enough(clips: int, least: int) -> Check:
    good = True if clips >= least else None
    sentence = f"{clips} clips; the gate asks for at least {least}."
    return Check(name="clips", passed=good, value=clips, limit=least, sentence=sentence)


def _wer(difference: Interval, most: float, clips: int) -> Check:
    """Test non-inferiority: the whole interval must lie below the limit, not just the estimate."""
    sentence = f"WER {points(difference.value)} (95 % interval {span(difference)}; "
    sentence += f"at most {points(most)} allowed)"
    passed: bool | None = None
    if difference.high <= most:
        passed = True
    elif difference.low > most:
        passed = False
    else:
        needed = clips_needed(difference, most, clips)
        sentence += ": not enough clips to tell, "
        sentence += (
            f"about {needed:,} like these are needed" if needed else "it is too close to the gate"
        )
    return Check(
        name="wer", passed=passed, value=difference.high, limit=most, sentence=f"{sentence}."
    )


def _busy(case: Comparison) -> str:
    """Warn if other work ran; a measurement by itself causes a load of about `threads`."""
    load = max(one.measurement.load_average for one in (case.reference, case.candidate))
    busy = load > 1.5 * case.candidate.measurement.threads
    return (
        f" The machine was busy (load average {load:.1f}): do not trust the times." if busy else ""
    )


def _latency(ratio: Interval, most: float, timed: int, warning: str = "") -> Check:
    passed: bool | None = ratio.value <= most
    sentence = f"{_capital(speed(ratio.value))} (median of paired latency ratios {ratio.value:.2f} "
    sentence += f"over {timed} {'clip' if timed == 1 else 'clips'}, "
    sentence += f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}; at most {most:.2f} allowed)"
    if not passed and ratio.low <= _DRIFT * most:
        passed = None
        sentence += ": too close to tell, measure on a quiet machine"
        sentence += " or with more clips" if timed < TIMED_CLIPS else ""
    sentence = f"{sentence}.{warning}"
    return Check(name="latency", passed=passed, value=ratio.value, limit=most, sentence=sentence)


def _sentence(verdict: Verdict, checks: Sequence[Check], wer: Interval, ratio: Interval) -> str:
    """Summarise the verdict: the decisive checks, or if passed, the WER and the speed."""
    if verdict == "passed":
        return f"WER {points(wer.value)}, at most {points(wer.high)}; {speed(ratio.value)}."
    decisive = [c for c in checks if c.passed is (False if verdict == "failed" else None)]
    return " ".join(f"{check.sentence} {check.advice}".strip() for check in decisive)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def figures(run: ScoredRun, timed_audio_s: float) -> Figures:
    """Aggregate one side: errors over all clips, times over the timed clips.

    Args:
        run: The side.
        timed_audio_s: Seconds of audio in the timed clips.
    """
    scores, seconds, measured = run.scores, run.seconds, run.measurement
    return Figures(
        wer=float(scores.errors.sum() / scores.words.sum()),
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
        peak_rss_bytes=measured.peak_rss_bytes,
        size_bytes=run.size_bytes,
        passes=measured.passes,
        load_average=measured.load_average,
    )


def slices(case: Comparison) -> tuple[Slice, ...]:
    """Return error rates by duration: regressions often affect long clips only."""
    durations = case.durations_s
    rows, above = [], 0.0
    for name, most in _SLICES:
        inside = (durations >= above) & (durations < most)
        above = most
        if not inside.any():
            continue
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
