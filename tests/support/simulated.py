"""Validations of artifacts whose true WER difference is known, to see what the gate makes of them.

Quantization changes few clips; it makes some worse and some better, by a word or by several. It may
make one speaker's worse more often than another's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from exporter.recipe import Gate
from exporter.validate.corpus import order
from exporter.validate.gate import judge as judging
from exporter.validate.gate import latency
from exporter.validate.gate.looks import planned
from exporter.validate.scoring import statistics
from exporter.validate.scoring.compare import Comparison, ScoredRun
from exporter.validate.scoring.units import units_of
from exporter.validate.scoring.wer import Scores
from tests.support.judging import measurement

Random = np.random.Generator
_SPREAD = 0.5  # of the logarithm of a clip's words, as in LibriSpeech test-clean


@dataclass(frozen=True)
class Kind:
    """A gate, data of a size, and how int8 changes it.

    `changed` is the part of the clips that it changes where it does no harm, `single` the part of
    the changes that are of one word; the others are longer, geometrically.
    """

    margin: float
    clips: int
    words: int
    changed: float
    single: float


# The gates and data of the recipes, and the changes seen in the demo: 2 % of clips, by 2.2 words.
SHIPPED = tuple(
    Kind(margin, clips, words, changed, single)
    for margin, clips, words in ((0.02, 104, 10), (0.005, 150, 20), (0.005, 300, 20))
    for changed, single in ((0.01, 0.8), (0.02, 0.45), (0.06, 0.65))
)


@dataclass(frozen=True)
class Speakers:
    """Data of some speakers with some clips each.

    How often an artifact harms a speaker's clips differs from speaker to speaker: log-normally,
    with a mean of 1 and `spread` as the standard deviation of the logarithm.
    """

    count: int
    clips: int
    spread: float

    def __str__(self) -> str:
        return f"{self.count} x {self.clips}, spread {self.spread}"


# LibriSpeech test-clean has 40 x 65 clips, the recipes take 400 of them.
ALL_SPEAKERS = tuple(
    Speakers(count, clips, spread)
    for count, clips in ((40, 65), (100, 26), (40, 10), (15, 20))
    for spread in (0, 0.5, 1)
)


def passes(kind: Kind, difference: float, count: int, seed: int = 0) -> int:
    """How many of `count` artifacts, truly worse by `difference`, the gate lets through."""
    random = np.random.default_rng(seed)
    gate = Gate(max_wer_increase=kind.margin, max_latency_ratio=1.0, min_clips=1)
    measured = measurement(kind.clips)
    clips = np.arange(kind.clips)
    through, units = 0, units_of([(None, None)] * kind.clips)
    with _drawn_once():
        for _ in range(count):
            sides = (ScoredRun(measured, scores, 1) for scores in _scores(kind, difference, random))
            one = Comparison(
                5.0 * np.ones(kind.clips), clips, *sides, clips, 0, 0, 0, units, [], str.strip
            )
            judged = judging.judge(one, gate, files=1)
            through += next(check for check in judged.checks if check.name == "wer").passed is True
    return through


def passes_by_unit(data: Speakers, count: int, seed: int = 0) -> tuple[int, int]:
    """How many of `count` artifacts, worse by exactly the limit, pass by clips and by speakers."""
    random = np.random.default_rng(seed)
    kind = Kind(0.005, data.count * data.clips, 20, 0.06, 0.65)
    speakers = np.repeat(np.arange(data.count), data.clips)
    through = [0, 0]
    with _drawn_once(1_000):
        for _ in range(count):
            logs = random.normal(-(data.spread**2) / 2, data.spread, data.count)
            ours, theirs = _scores(kind, kind.margin, random, np.exp(logs)[speakers])
            for place, units in enumerate((None, speakers)):
                found = statistics.rate_difference(ours.errors, theirs.errors, ours.words, units)
                through[place] += found.high <= kind.margin
    return through[0], through[1]


@dataclass(frozen=True)
class Decided:
    """What a gate says of an artifact's words, None for nothing, and the clips that it heard."""

    passed: bool | None
    clips: int


def decided(
    data: Speakers, margin: float, difference: float, count: int, *, seed: int = 0
) -> Iterator[Decided]:
    """Judge `count` artifacts, truly worse by `difference`, look by look.

    Speakers of one clip each are clips that are independent.
    """
    random = np.random.default_rng(seed)
    kind = Kind(margin, data.count * data.clips, 20, 0.06, 0.65)
    speakers = np.repeat(np.arange(data.count), data.clips)
    units = units_of((None if data.clips == 1 else str(each), None) for each in speakers)
    for number in range(count):
        logs = random.normal(-(data.spread**2) / 2, data.spread, data.count)
        ours, theirs = _scores(kind, difference, random, np.exp(logs)[speakers])
        heard = order.drawn(kind.clips, units, seed + number)
        yield _looked(margin, ours, theirs, heard, units.index)


def _looked(margin: float, ours: Scores, theirs: Scores, heard: order.Order, index: Any) -> Decided:
    looks = planned(heard, 1)
    assert looks is not None
    for size in looks.sizes:
        some = heard.places[:size]
        units = None if index is None else np.unique(index[some], return_inverse=True)[1]
        counts = ours.errors[some], theirs.errors[some], ours.words[some]
        found = statistics.rate_difference(*counts, units, looks.level)
        if found.high <= margin or found.low > margin:
            return Decided(found.high <= margin, size)
    return Decided(None, size)


def _scores(
    kind: Kind, difference: float, random: Random, share: Any = 1.0
) -> tuple[Scores, Scores]:
    """The errors of both sides in clips that are drawn anew; `share` is each clip's of the harm."""
    words = _lengths(kind.words, kind.clips, random)
    size = 1 / kind.single
    harm = difference * _mean_words(kind.words) / size
    better = max((kind.changed - harm) / 2, 0)
    what, by = random.random(kind.clips), random.geometric(kind.single, kind.clips)
    change = np.where(what < better, -by, np.where(what < 2 * better + harm * share, by, 0))
    ours = np.maximum(random.binomial(words, 0.04), -change)
    return _errors(words, ours), _errors(words, ours + change)


def _lengths(words: int, clips: int, random: Random) -> Any:
    return np.maximum(random.lognormal(np.log(words), _SPREAD, clips).round(), 1).astype(np.int64)


@cache
def _mean_words(words: int) -> float:
    return float(_lengths(words, 1_000_000, np.random.default_rng(0)).mean())


def _errors(words: Any, errors: Any) -> Scores:
    none = np.zeros_like(words)
    return Scores(words, errors, none, none, 5 * words, 2 * errors)


@contextmanager
def _drawn_once(resamples: int = statistics.RESAMPLES) -> Iterator[None]:
    """Resample data of a size by the same draws of units every time; time nothing.

    Draws of units are as good as those of cells, and need not be made for each simulation.
    """
    some = np.ones(2)
    no_time = statistics.median_ratio(some, some)

    @cache
    def drawn(units: int) -> Any:
        return draws(units, resamples)

    def rates(cells: Any, counts: Any) -> Any:
        return by_unit(np.repeat(cells, counts, axis=0), drawn(int(counts.sum())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_rates", rates)
        patch.setattr(latency, "median_ratio", lambda *_: no_time)
        yield


def draws(units: int, resamples: int, seed: int = 0) -> Any:
    """How often each resample draws each unit, float64 [resamples, units], as that is fastest."""
    random = np.random.default_rng(seed)
    chances = np.full(units, 1 / units)
    return random.multinomial(units, chances, size=resamples).astype(np.float64)


def by_unit(pairs: Any, weights: Any) -> Any:
    """The rates of resamples whose units are drawn one by one; `pairs` is [units, 2]."""
    change, words = (weights @ pairs).T
    return change[words > 0] / words[words > 0]


def most_by_chance(count: int, rate: float) -> int:
    """What so many trials of a rate exceed once in a thousand times."""
    return int(np.quantile(np.random.default_rng(0).binomial(count, rate, 1_000_000), 0.999))
