"""The gate's interval against scipy's, on data like those that int8 makes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exporter.validate.scoring.statistics import rate_difference

stats = pytest.importorskip("scipy.stats")
Ints = NDArray[np.int64]


def few_clips_worse(random: np.random.Generator, clips: int) -> Ints:
    """Skewed to the right: one clip in twenty is worse, by one word to many."""
    return np.where(random.random(clips) < 0.05, random.geometric(0.45, clips), 0)


def few_clips_better(random: np.random.Generator, clips: int) -> Ints:
    """Skewed to the left."""
    return -few_clips_worse(random, clips)


def one_clip_lost(random: np.random.Generator, clips: int) -> Ints:
    """A whole sentence is missing, and nothing else differs."""
    change = np.zeros(clips, dtype=np.int64)
    change[random.integers(clips)] = 15
    return change


def some_either_way(random: np.random.Generator, clips: int) -> Ints:
    """Hardly skewed."""
    return random.integers(-2, 3, clips)


@pytest.mark.parametrize("clips", [104, 300])
@pytest.mark.parametrize(
    "changed", [few_clips_worse, few_clips_better, one_clip_lost, some_either_way]
)
def test_the_interval_is_scipys_bca(
    changed: Callable[[np.random.Generator, int], Ints], clips: int
) -> None:
    """Of the same clips with the two imagined ones, up to the chance of the resamples.

    Plain percentiles are off by up to half the width here, so they would show.
    """
    random = np.random.default_rng(clips)
    words = np.maximum(random.lognormal(np.log(20), 0.5, clips).round(), 1).astype(np.int64)
    change = changed(random, clips)
    errors = np.full(clips, 15)
    ours = rate_difference(errors, errors + change, words)

    def rate(changes: Any, lengths: Any, axis: int = -1) -> Any:
        return changes.sum(axis=axis) / lengths.sum(axis=axis)

    mean = max(1, round(float(words.mean())))
    whole = np.append(change, [3, -3]), np.append(words, [mean, mean])
    how: dict[str, Any] = {"paired": True, "method": "BCa", "n_resamples": ours.resamples}
    low, high = stats.bootstrap(whole, rate, rng=0, **how).confidence_interval
    near = 0.08 * (high - low)
    assert ours.low == pytest.approx(low, abs=near)
    assert ours.high == pytest.approx(high, abs=near)
