"""Intervals by a paired bootstrap, and the effect that a data set of this size detects.

Both sides transcribe the same clips, so in a paired bootstrap the clips' difficulty cancels (Bisani
and Ney, 2004). Clips of one speaker are not independent, so speakers are resampled where the data
tell them (Liu and Peng, 2020): see `units`.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from exporter.artifact.report import Interval

RESAMPLES = 10_000
SEED = 20_240_229
LEVEL = 0.95
# If int8 changes a clip, it changes two words on average, sometimes five. With 3, less than 5 % of
# simulated artifacts just beyond the limit pass the gates of the recipes; with 2, 6 %.
_UNSEEN_ERRORS = 3
_CHUNK_COUNTS = 1 << 20  # of resampled counts at a time: 8 MiB
# Two-sided 5 % and 80 % power: the usual smallest effect that a study can find.
_DETECTABLE = 1.959964 + 0.841621

Counts = NDArray[np.int64]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


def rate_difference(
    reference: Counts,
    candidate: Counts,
    words: Counts,
    units: Indices | None = None,
    level: float = LEVEL,
) -> Interval:
    """Return the difference of the corpus error rates, candidate minus reference.

    A bootstrap resamples what was observed only: if no clip changed, the interval would have no
    width. So two pseudo-clips of mean length are added, one with a few errors more and one with as
    many fewer.

    Few clips change, and some by many words, so plain percentile intervals would be too low. The
    BCa interval (Efron, 1987) corrects for the bias of the resamples and for the skewness of the
    units' influence.

    Args:
        reference: The reference's errors, int64 [clips].
        candidate: The candidate's errors, int64 [clips].
        words: Words of the true texts, int64 [clips].
        units: The unit of each clip, such as its speaker, from 0, int64 [clips]; units are
            resampled whole. None: each clip is a unit.
        level: The interval's confidence level.
    """
    change = candidate - reference
    value = float(change.sum() / words.sum())
    # Means of clips, not of units: of units, they would bias the rate where there are few.
    mean = max(1, round(float(words.mean())))
    drawn_change = np.append(_summed(change, units), [_UNSEEN_ERRORS, -_UNSEEN_ERRORS])
    drawn_words = np.append(_summed(words, units), [mean, mean])
    cells, counts = _cells(drawn_change, drawn_words)
    samples = _rates(cells, counts)
    centre = float(drawn_change.sum() / drawn_words.sum())
    ends = _corrected(samples, centre, cells[:, 0] - centre * cells[:, 1], counts, _ends(level))
    low, high = np.quantile(samples, ends)
    return Interval(
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        resamples=RESAMPLES,
        seed=SEED,
        detectable=_DETECTABLE * float(samples.std()),
    )


def median_ratio(reference_s: Floats, candidate_s: Floats) -> Interval:
    """Return the median over clips of the ratio candidate / reference; both are seconds [clips].

    Its bootstrap distribution is known, so nothing is drawn.
    """
    ratios = np.sort(candidate_s / reference_s)
    chances = _median_chances(len(ratios))
    low, high = ratios[np.searchsorted(np.cumsum(chances), _ends(LEVEL))]
    mean = chances @ ratios
    deviation = math.sqrt(chances @ (ratios - mean) ** 2)
    return Interval(
        value=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        level=LEVEL,
        resamples=0,
        seed=0,
        detectable=_DETECTABLE * deviation,
    )


def units_needed(interval: Interval, limit: float, units: int) -> int | None:
    """Estimate how many units would decide about `limit`; None beyond 100 times `units`."""
    gap = limit - interval.value
    reach = interval.high - interval.value if gap > 0 else interval.value - interval.low
    if reach > 10 * abs(gap):
        return None
    return max(units, math.ceil(units * (reach / gap) ** 2 / 10) * 10)


def _summed(values: Counts, units: Indices | None) -> Counts:
    if units is None:
        return values
    sums = np.zeros(int(units.max()) + 1, dtype=np.int64)
    np.add.at(sums, units, values)
    return sums


def _cells(change: Counts, words: Counts) -> tuple[Floats, Counts]:
    """Return the distinct (change, words), float64 [cells, 2], and how many units have each."""
    pairs, counts = np.unique(change + 1j * words, return_counts=True)  # exact to 2**53
    return np.stack([pairs.real, pairs.imag], axis=1), counts.astype(np.int64)


def _rates(cells: Floats, counts: Counts) -> Floats:
    """Return the rates of resamples that have a word.

    A rate depends only on how often each cell is drawn. So one multinomial over the cells has the
    same distribution as one over the units, and costs as much as there are cells.
    """
    random = np.random.default_rng(SEED)
    units, step = int(counts.sum()), max(1, _CHUNK_COUNTS // len(counts))
    drawn = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        weights = random.multinomial(units, counts / units, size=size).astype(np.float64)
        change, words = (weights @ cells).T
        drawn.append(change[words > 0] / words[words > 0])
    return np.concatenate(drawn)


def _ends(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _corrected(
    samples: Floats, centre: float, influence: Floats, counts: Counts, ends: tuple[float, float]
) -> tuple[float, float]:
    """Return the quantiles that bound a BCa interval; `influence` is that of a cell's unit."""
    normal = NormalDist()
    below = float(np.mean(samples < centre) + np.mean(samples <= centre)) / 2
    bias = normal.inv_cdf(min(max(below, 1 / len(samples)), 1 - 1 / len(samples)))
    skewness = float(counts @ influence**3 / (6 * (counts @ influence**2) ** 1.5))
    low, high = (bias + normal.inv_cdf(end) for end in ends)
    return (
        normal.cdf(bias + low / (1 - skewness * low)),
        normal.cdf(bias + high / (1 - skewness * high)),
    )


def _median_chances(count: int) -> Floats:
    """Return how likely each of `count` order statistics is a resample's median, float64 [count].

    A resample's median is at most the k-th smallest value if half of the draws are among the k
    smallest: a binomial tail, P(Bin(n, k/n) >= m) with m = ceil(n / 2). That tail is the
    distribution function of Beta(m, n - m + 1) at k/n, so each chance is an integral of its
    density; 20 nodes (Gauss and Legendre) make it exact to n = 40, and to rounding above.
    """
    middle = math.ceil(count / 2)
    scale = math.lgamma(count + 1) - math.lgamma(middle) - math.lgamma(count - middle + 1)
    chances = np.zeros(count)
    for node, share in zip(*np.polynomial.legendre.leggauss(20), strict=True):
        at = (np.arange(count) + (node + 1) / 2) / count
        log_density = scale + (middle - 1) * np.log(at) + (count - middle) * np.log1p(-at)
        chances += share / 2 / count * np.exp(log_density)
    normalised: Floats = chances / chances.sum()
    return normalised
