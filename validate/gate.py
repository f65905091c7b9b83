"""Judge two measurements by the gate: pure functions, without files and clocks.

A check that the data cannot decide is neither passed nor failed, and the artifact does not pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.artifact.report import Check, ClipErrors, Figures, Interval, Slice, Verdict
from exporter.recipe import Gate
from validate.measure.latency import Measurement
from validate.measure.shapes import ShapeCheck
from validate.scoring import Comparison, ScoredRun
from validate.statistics import Counts, clips_needed, median_ratio, rate_difference

# So many say the median of paired ratios within about a twentieth; the report tells how many.
TIMED_CLIPS = 100
WORST = 20
_SLICES = (
    ("under 5 s", 5.0),
    ("5 to 15 s", 15.0),
    ("15 to 30 s", 30.0),
    ("over 30 s", float("inf")),
)
_LEAST_LIKENESS = 0.8
# Two runs of one and the same model may differ by so much, with all clips alike.
_DRIFT = 1.05


@dataclass(frozen=True)
class Judgement:
    """The verdict, what it rests on, and one sentence that says it."""

    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    wer_difference: Interval
    cer_difference: Interval
    latency_ratio: Interval


def judge(case: Comparison, gate: Gate, files: int) -> Judgement:
    """Apply every check; `files` is how many sealed files were found whole."""
    ours, theirs = case.reference.scores, case.candidate.scores
    wer = rate_difference(ours.errors, theirs.errors, ours.words)
    cer = rate_difference(ours.character_errors, theirs.character_errors, ours.characters)
    ratio = median_ratio(case.reference.seconds, case.candidate.seconds)
    checks = (
        Check(name="files", passed=True, value=files, sentence=f"All {files} files are as sealed."),
        *_structure(case.reference.measurement.shapes, case.candidate.measurement.shapes),
        _degenerate(case),
        _enough(len(case.durations_s), gate.min_clips),
        _wer(wer, gate.max_wer_increase, len(case.durations_s)),
        _latency(ratio, gate.max_latency_ratio, len(case.timed), _busy(case)),
    )
    verdict = verdict_of(checks)
    return Judgement(verdict, _sentence(verdict, checks, wer, ratio), checks, wer, cer, ratio)


def too_slow(reference: Measurement, candidate: Measurement, most: float) -> bool:
    """Whether times like these would fail a gate that allows the ratio `most`."""
    ours, theirs = (np.array(one.seconds) for one in (reference, candidate))
    return _latency(median_ratio(ours, theirs), most, len(ours)).passed is False


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Failed if any check failed, else undecided if any could not tell, else passed."""
    if any(check.passed is False for check in checks):
        return "failed"
    return "passed" if all(check.passed for check in checks) else "undecided"


def points(rate: float) -> str:
    """A difference of rates in print: percentage points with a sign."""
    return f"{100 * rate:+.2f} points"


def span(interval: Interval) -> str:
    """An interval of a difference of rates in print."""
    return f"{100 * interval.low:+.2f} to {points(interval.high)}"


def speed(ratio: float) -> str:
    """A latency ratio in words."""
    if ratio > 1.005:
        return f"{ratio:.2f} times SLOWER than the original"
    return f"{1 / ratio:.2f} times as fast as the original"


def _structure(
    reference: Sequence[ShapeCheck], candidate: Sequence[ShapeCheck]
) -> tuple[Check, Check]:
    """Unusual batches run, give the text they give alone, and stay finite.

    What the original cannot do either (a snippet too short, say) is not the artifact's fault.
    """
    broken = [p for p, ours in zip(candidate, reference, strict=True) if p.error and not ours.error]
    unlike = [p for p, ours in zip(candidate, reference, strict=True) if _odd(p) and not _odd(ours)]
    if broken:
        said = f"A batch of {len(broken[0].lengths_s)} clips crashes: {broken[0].error}"
    elif unlike:
        said = f"A batch of {len(unlike[0].lengths_s)} clips gives other text than they give alone."
    else:
        said = f"{len(candidate)} batches of unusual sizes and lengths give the text expected."
    good = not broken and not unlike
    seen = [probe.finite for probe in candidate if probe.finite is not None]
    finite = all(seen) if seen else None
    words = {True: "Every output is finite.", False: "Outputs hold NaN or infinity."}
    return (
        Check(name="shapes", passed=good, value=len(candidate), sentence=said),
        Check(
            name="finite",
            passed=finite,
            sentence="The outputs could not be observed." if finite is None else words[finite],
        ),
    )


def _odd(probe: ShapeCheck) -> bool:
    return probe.likeness is not None and probe.likeness < _LEAST_LIKENESS


def _degenerate(case: Comparison) -> Check:
    """Empty or endlessly repeating text counts where neither truth nor reference has it."""
    empty, looping = case.newly_empty, case.newly_looping
    said = "No transcript is empty or repeats itself where the original's does not."
    if empty or looping:
        said = f"{empty} texts are empty and {looping} repeat themselves, unlike the original's."
    return Check(
        name="texts",
        passed=not empty and not looping,
        value=empty + looping,
        limit=0,
        sentence=said,
    )


def _enough(clips: int, least: int) -> Check:
    good = True if clips >= least else None
    said = f"{clips} clips; the gate asks for at least {least}."
    return Check(name="clips", passed=good, value=clips, limit=least, sentence=said)


def _wer(difference: Interval, most: float, clips: int) -> Check:
    """Non-inferiority: the whole interval must lie below the limit, not just the estimate."""
    said = f"WER {points(difference.value)} (95 % interval {span(difference)}; "
    said += f"at most {points(most)} allowed)"
    passed: bool | None = None
    if difference.high <= most:
        passed = True
    elif difference.low > most:
        passed = False
    else:
        needed = clips_needed(difference, most, clips)
        said += ": not enough clips to tell, "
        said += (
            f"about {needed:,} like these are needed" if needed else "it is too close to the gate"
        )
    return Check(name="wer", passed=passed, value=difference.high, limit=most, sentence=f"{said}.")


def _busy(case: Comparison) -> str:
    """A warning where other work ran; our own measurements alone load about `threads`."""
    load = max(one.measurement.load_average for one in (case.reference, case.candidate))
    busy = load > 1.5 * case.candidate.measurement.threads
    return (
        f" The machine was busy (load average {load:.1f}): do not trust the times." if busy else ""
    )


def _latency(ratio: Interval, most: float, timed: int, warning: str = "") -> Check:
    passed: bool | None = ratio.value <= most
    said = f"{_capital(speed(ratio.value))} (median of paired latency ratios {ratio.value:.2f} "
    said += f"over {timed} {'clip' if timed == 1 else 'clips'}, "
    said += f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}; at most {most:.2f} allowed)"
    if not passed and ratio.low <= _DRIFT * most:
        passed = None
        said += ": too close to tell, measure on a quiet machine"
        said += " or with more clips" if timed < TIMED_CLIPS else ""
    said = f"{said}.{warning}"
    return Check(name="latency", passed=passed, value=ratio.value, limit=most, sentence=said)


def _sentence(verdict: Verdict, checks: Sequence[Check], wer: Interval, ratio: Interval) -> str:
    """The verdict in one line: what decided it, or the two numbers that everybody asks for."""
    if verdict == "passed":
        return f"WER {points(wer.value)}, at most {points(wer.high)}; {speed(ratio.value)}."
    decisive = [c for c in checks if c.passed is (False if verdict == "failed" else None)]
    return " ".join(check.sentence for check in decisive)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def figures(run: ScoredRun, timed_audio_s: float) -> Figures:
    """Sum one side up: errors over all clips, times over those that were timed.

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
    """The same rates by duration: damage often shows in long clips only."""
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
    """Return the places of all clips whose transcripts differ, the most harmed first."""
    harm = _harm(case)[case.changed]
    return [int(place) for place in case.changed[np.argsort(-harm, kind="stable")]]


def worst_places(case: Comparison) -> list[int]:
    """Return the places of the clips that lost most against the reference, then of most errors."""
    errors = case.candidate.scores.errors
    order = np.lexsort((-errors, -_harm(case)))[:WORST]
    return [int(place) for place in order if errors[place]]


def worst(case: Comparison) -> tuple[ClipErrors, ...]:
    """The clips that lost most against the reference, then those with most errors."""
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
    """Errors of the candidate beyond the reference's, clip by clip."""
    return case.candidate.scores.errors - case.reference.scores.errors
