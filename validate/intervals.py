"""Intervals by a paired bootstrap over clips, and what a data set of this size can tell.

Pairing matters: both sides hear the same clips, so the clips' difficulty cancels (Bisani and Ney,
2004). Speakers are unknown here; where one speaker says many clips, the interval is too narrow.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from exporter.report import Interval

RESAMPLES = 10_000
SEED = 20_240_229
_LEVEL = 0.95
_CHUNK_CELLS = 1 << 22  # of resampled counts at a time: 32 MiB
# Two-sided 5 % and 80 % power: the usual smallest effect that a study can find.
_DETECTABLE = 1.959964 + 0.841621

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def rate_difference(reference: Counts, candidate: Counts, words: Counts) -> Interval:
    """The corpus rates' difference, candidate minus reference; errors and words are [clips].

    A bootstrap cannot draw what it has not seen: without a changed clip it would be certain. So two
    clips of mean length join the drawing, one with an error more and one with an error less, which
    brings the upper end for 0, 1, 2 new errors close to the exact (Poisson) bound.
    """
    change = candidate - reference
    mean = max(1, round(float(words.mean())))
    drawn_change, drawn_words = np.append(change, [1, -1]), np.append(words, [mean, mean])
    samples = []
    for weights in _resampled(len(drawn_words)):
        total = weights @ drawn_words
        with np.errstate(invalid="ignore", divide="ignore"):
            samples.append((weights @ drawn_change) / total)
    return _interval(float(change.sum() / words.sum()), np.concatenate(samples))


def median_ratio(reference_s: Floats, candidate_s: Floats) -> Interval:
    """The median over clips of the candidate's seconds by the reference's."""
    ratios = np.sort(candidate_s / reference_s)
    middle = math.ceil(len(ratios) / 2)
    samples = []
    for weights in _resampled(len(ratios)):
        places = (np.cumsum(weights, axis=1) >= middle).argmax(axis=1)
        samples.append(ratios[places])
    return _interval(float(np.median(ratios)), np.concatenate(samples))


def clips_needed(interval: Interval, limit: float, clips: int) -> int | None:
    """About how many clips like these would decide about `limit`; None beyond a hundredfold."""
    gap = limit - interval.value
    reach = interval.high - interval.value if gap > 0 else interval.value - interval.low
    if reach > 10 * abs(gap):
        return None
    return max(clips, math.ceil(clips * (reach / gap) ** 2 / 10) * 10)


def _resampled(clips: int) -> Iterator[NDArray[np.int64]]:
    """How often each clip is drawn, [resamples, clips], a piece at a time."""
    random = np.random.default_rng(SEED)
    step = max(1, _CHUNK_CELLS // clips)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        yield random.multinomial(clips, np.full(clips, 1 / clips), size=size)


def _interval(value: float, samples: Floats) -> Interval:
    samples = samples[np.isfinite(samples)]
    low, high = np.quantile(samples, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(
        value=value,
        low=float(low),
        high=float(high),
        level=_LEVEL,
        resamples=RESAMPLES,
        seed=SEED,
        detectable=_DETECTABLE * float(samples.std()),
    )
