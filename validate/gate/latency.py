"""Judge the times: over all timed clips, and over those of each range of durations.

Pure functions. An artifact may be fast on most clips and slow on long ones, so a median over all of
them says too little.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.artifact.report import Check, Interval
from exporter.validate.corpus.facts import LENGTHS
from exporter.validate.scoring.statistics import Floats, median_ratio

# With so many clips the median of paired ratios is known to within about 5 %.
TIMED_CLIPS = 100
# Ratio by which the times of two runs of one model may differ on all clips alike.
_DRIFT = 1.05
# Fewer clips of a length decide nothing; with 5, each of them must be too slow.
_LEAST_CLIPS = 5
# A short clip may cost a fixed time more, in calls and padding, that nobody notices.
_UNNOTICED_S = 0.02
_QUIET = "Measure on a machine that does nothing else, with the threads of production."


@dataclass(frozen=True)
class Times:
    """Times of the timed clips, float64 [timed clips] each: their durations, and both sides'."""

    durations_s: Floats
    reference_s: Floats
    candidate_s: Floats

    def of(self, inside: NDArray[np.bool_]) -> "Times":
        """Return the times of some clips, bool [timed clips]."""
        return Times(self.durations_s[inside], self.reference_s[inside], self.candidate_s[inside])

    @property
    def ratio(self) -> Interval:
        """The median of the clips' ratios."""
        return median_ratio(self.reference_s, self.candidate_s)

    @property
    def p95(self) -> float:
        """The 95th percentile of the clips' ratios."""
        return float(np.quantile(self.candidate_s / self.reference_s, 0.95))


def by_length(durations_s: Floats) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each range of durations that has clips: its name and which, bool [clips]."""
    above = 0.0
    for name, most in LENGTHS:
        inside = (durations_s >= above) & (durations_s < most)
        above = most
        if inside.any():
            yield name, inside


def check_latency(times: Times, most: float, warning: str = "") -> Check:
    """Check the median ratio over all timed clips; `warning` is added to the sentence.

    Args:
        times: The times of both sides.
        most: The largest ratio that the gate allows.
        warning: What makes the times doubtful.
    """
    ratio, timed = times.ratio, len(times.durations_s)
    passed: bool | None = ratio.value <= most
    sentence = f"{_capital(speed(ratio.value))} (median of paired latency ratios {ratio.value:.2f} "
    sentence += f"over {_clips(timed)}, "
    sentence += f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}; at most {most:.2f} allowed)"
    advice = ""
    if not passed and ratio.low <= _DRIFT * most:
        passed = None
        sentence += ": too close to tell"
        advice = _QUIET if timed >= TIMED_CLIPS else f"{_QUIET} More clips help too."
    elif not passed:
        advice = (
            "Usual causes: a preset that is not for this CPU, threads other than those compiled "
            f"in, a cache of the decoder that is copied or not used. {_QUIET}"
        )
    return Check(
        name="latency",
        passed=passed,
        value=ratio.value,
        limit=most,
        sentence=f"{sentence}.{warning}",
        advice=advice,
    )


def check_lengths(times: Times, most: float, overall: bool | None) -> Check:
    """Check the median ratio of each range of durations.

    A range fails if its whole interval is beyond the limit and the drift of two runs. One with few
    clips is told; it leaves the check undecided only where `overall`, the check of all timed clips,
    is undecided too.
    """
    slow: list[str] = []
    unclear: list[str] = []
    worst = 0.0
    for name, inside in by_length(times.durations_s):
        some = times.of(inside)
        ratio = some.ratio
        worst = max(worst, ratio.value)
        if ratio.value > most:
            told = f"clips {_of(name)}: {speed(ratio.value)} (over {_clips(int(inside.sum()))}, "
            told += f"95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
            (slow if _surely_slow(some, ratio, most) else unclear).append(told)
    sentence = f"No length of clips is slower than {most:.2f} times the original."
    if slow or unclear:
        sentence = f"{_capital('; '.join([*slow, *unclear]))}; at most {most:.2f} allowed."
    if unclear and not slow:
        sentence += " That is too few clips, too close or too short a time to tell."
    advice = (
        "Usual causes: a cache of the decoder that grows with every step, attention over more "
        f"than the window, a graph for short inputs only. {_QUIET}"
    )
    undecided = overall is None and bool(unclear)
    return Check(
        name="lengths",
        passed=False if slow else None if undecided else True,
        value=worst,
        limit=most,
        sentence=sentence,
        advice=advice if slow else _QUIET if undecided else "",
    )


def undecided(check: Check) -> Check:
    """Return a check of times that were taken where other work may have run."""
    told = f"{check.sentence} The times do not count: they were not taken on a machine kept for it."
    advice = "Time it here, without --timing, or on a node kept for it, with --timing LABEL=VALUE."
    return check.model_copy(update={"passed": None, "sentence": told, "advice": advice})


def _surely_slow(times: Times, ratio: Interval, most: float) -> bool:
    extra_s = float(np.median(times.candidate_s - most * times.reference_s))
    enough = len(times.durations_s) >= _LEAST_CLIPS
    return enough and ratio.low > _DRIFT * most and extra_s > _UNNOTICED_S


def too_slow(times: Times, most: float) -> bool:
    """Return whether times fail a gate that allows a ratio of `most`, overall or at a length."""
    overall = check_latency(times, most).passed
    return overall is False or check_lengths(times, most, overall).passed is False


def speed(ratio: float) -> str:
    """Describe a latency ratio in words."""
    if ratio > 1.005:
        return f"{ratio:.2f} times SLOWER than the original"
    return f"{1 / ratio:.2f} times as fast as the original"


def _of(name: str) -> str:
    return name if name.startswith(("under", "over")) else f"of {name}"


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
