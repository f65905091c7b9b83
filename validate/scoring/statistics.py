"""Intervals by a paired bootstrap over clips, and the effect that a data set of this size detects.

Both sides transcribe the same clips, so in a paired bootstrap the clips' difficulty cancels (Bisani
and Ney, 2004). Speakers are unknown here; if one speaks many clips, the interval is too narrow.
"""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from exporter.artifact.report import Interval

RESAMPLES = 10_000
SEED = 20_240_229
_LEVEL = 0.95
_ENDS = ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2)
# If int8 changes a clip, it changes two words on average, sometimes five. With 3, less than 5 % of
# simulated artifacts just beyond the limit pass the gates of the recipes; with 2, 6 %.
_UNSEEN_ERRORS = 3
_CHUNK_CELLS = 1 << 22  # of resampled counts at a time: 32 MiB
# Two-sided 5 % and 80 % power: the usual smallest effect that a study can find.
_DETECTABLE = 1.959964 + 0.841621

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def rate_difference(reference: Counts, candidate: Counts, words: Counts) -> Interval:
    """Return the difference of the corpus error rates, candidate minus reference.

    A bootstrap resamples observed clips only: if no clip changed, the interval would have no width.
    So two pseudo-clips of mean length are added, one with a few errors more and one with as many
    fewer.

    Few clips change, and some by many words, so plain percentile intervals would be too low. The
    BCa interval (Efron, 1987) corrects for the bias of the resamples and for the skewness of the
    clips' influence.

    Args:
        reference: The reference's errors, int64 [clips].
        candidate: The candidate's errors, int64 [clips].
        words: Words of the true texts, int64 [clips].
    """
    change = candidate - reference
    mean = max(1, round(float(words.mean())))
    drawn_change = np.append(change, [_UNSEEN_ERRORS, -_UNSEEN_ERRORS])
    drawn_words = np.append(words, [mean, mean])
    drawn = []
    for weights in _resampled(len(drawn_words)):
        total = weights @ drawn_words
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn.append((weights @ drawn_change) / total)
    samples = np.concatenate(drawn)
    samples = samples[np.isfinite(samples)]
    centre = drawn_change.sum() / drawn_words.sum()
    ends = _corrected(samples, centre, drawn_change - centre * drawn_words)
    return _interval(float(change.sum() / words.sum()), samples, ends)


def median_ratio(reference_s: Floats, candidate_s: Floats) -> Interval:
    """Return the median over clips of the ratio candidate / reference; both are seconds [clips]."""
    ratios = np.sort(candidate_s / reference_s)
    middle = math.ceil(len(ratios) / 2)
    samples = []
    for weights in _resampled(len(ratios)):
        places = (np.cumsum(weights, axis=1) >= middle).argmax(axis=1)
        samples.append(ratios[places])
    return _interval(float(np.median(ratios)), np.concatenate(samples), _ENDS)


def clips_needed(interval: Interval, limit: float, clips: int) -> int | None:
    """Estimate how many clips would decide about `limit`; None beyond 100 times `clips`."""
    gap = limit - interval.value
    reach = interval.high - interval.value if gap > 0 else interval.value - interval.low
    if reach > 10 * abs(gap):
        return None
    return max(clips, math.ceil(clips * (reach / gap) ** 2 / 10) * 10)


def _resampled(clips: int) -> Iterator[NDArray[np.int64]]:
    """Yield in chunks how often each resample draws each clip, [resamples, clips]."""
    random = np.random.default_rng(SEED)
    step = max(1, _CHUNK_CELLS // clips)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        yield random.multinomial(clips, np.full(clips, 1 / clips), size=size)


def _corrected(samples: Floats, centre: float, influence: Floats) -> tuple[float, float]:
    """Return the quantiles that bound a BCa interval; `influence` is that of each clip."""
    normal = NormalDist()
    below = float(np.mean(samples < centre) + np.mean(samples <= centre)) / 2
    bias = normal.inv_cdf(min(max(below, 1 / len(samples)), 1 - 1 / len(samples)))
    skewness = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    low, high = (bias + normal.inv_cdf(end) for end in _ENDS)
    return (
        normal.cdf(bias + low / (1 - skewness * low)),
        normal.cdf(bias + high / (1 - skewness * high)),
    )


def _interval(value: float, samples: Floats, ends: tuple[float, float]) -> Interval:
    low, high = np.quantile(samples, ends)
    return Interval(
        value=value,
        low=float(low),
        high=float(high),
        level=_LEVEL,
        resamples=RESAMPLES,
        seed=SEED,
        detectable=_DETECTABLE * float(samples.std()),
    )
