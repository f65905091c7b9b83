"""The gate's interval against scipy's, on data like those that int8 makes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exporter.validate.scoring import statistics
from exporter.validate.scoring.statistics import median_ratio, rate_difference
from tests.support.simulated import by_unit, draws

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
    stats = pytest.importorskip("scipy.stats")
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


@pytest.mark.parametrize("changed", [few_clips_worse, one_clip_lost, some_either_way])
def test_drawing_cells_is_drawing_clips(
    changed: Callable[[np.random.Generator, int], Ints],
) -> None:
    random = np.random.default_rng(7)
    change, words = changed(random, 300), random.integers(5, 40, 300)
    cells, counts = statistics._cells(change, words)
    assert counts.sum() == 300
    drawn = statistics._rates(cells, counts)
    each = by_unit(np.stack([change, words], axis=1), draws(300, statistics.RESAMPLES))
    assert drawn.std() == pytest.approx(each.std(), rel=0.05)
    places = np.linspace(0.01, 0.99, 50)
    apart = np.quantile(drawn, places) - np.quantile(each, places)
    assert np.abs(apart).max() < 0.25 * each.std()
    assert stats_distance(drawn, each) < 0.03  # 1 in 1,000 by chance: 0.028


def stats_distance(one: Any, other: Any) -> float:
    """The largest difference of two distribution functions (Kolmogorov and Smirnov)."""
    at = np.concatenate([one, other])
    ranks = (np.searchsorted(np.sort(side), at, side="right") / len(side) for side in (one, other))
    first, second = ranks
    return float(np.abs(first - second).max())


def test_a_million_clips_cost_as_much_as_their_cells() -> None:
    random = np.random.default_rng(3)
    clips = 1_000_000
    words = np.maximum(random.lognormal(np.log(20), 0.5, clips).round(), 1).astype(np.int64)
    change = random.integers(-2, 3, clips) * (random.random(clips) < 0.02)
    ours = np.maximum(0, -change)
    cells, _ = statistics._cells(change, words)
    assert len(cells) < 1_000
    tracemalloc.start()
    found = rate_difference(ours, ours + change, words)
    median = median_ratio(words.astype(float), words + change + 3.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250 << 20
    normal = 1.96 * np.std(change - found.value * words) / words.mean() / np.sqrt(clips)
    assert found.high - found.value == pytest.approx(normal, rel=0.05)
    assert median.low <= median.value <= median.high < 1.01 * median.low


@pytest.mark.parametrize("count", [1, 2, 5, 6, 41, 100])
def test_the_medians_interval_is_that_of_resamples(count: int) -> None:
    random = np.random.default_rng(count)
    ratios = np.sort(random.lognormal(0, 0.3, count))
    chances = statistics._median_chances(count)
    weights = draws(count, 20_000).cumsum(axis=1)
    places = (weights >= np.ceil(count / 2)).argmax(axis=1)
    seen = np.bincount(places, minlength=count) / len(places)
    assert np.abs(np.cumsum(seen) - np.cumsum(chances)).max() < 0.015
    found = median_ratio(np.ones(count), ratios)
    low, high = np.quantile(ratios[places], [0.025, 0.975], method="inverted_cdf")
    near = np.searchsorted(ratios, [found.low, found.high]) - np.searchsorted(ratios, [low, high])
    assert np.abs(near).max() <= 1
    assert found.detectable == pytest.approx(2.801585 * ratios[places].std(), rel=0.05)
    assert (found.resamples, found.seed) == (0, 0)
