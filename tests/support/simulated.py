"""Validations of artifacts whose true WER difference is known, to see what the gate makes of them.

QuantizationScheme changes few clips; it makes some worse and some better, by a word or by several.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from exporter.recipe import Gate
from exporter.validate.gate import judge as judging
from exporter.validate.scoring import statistics
from exporter.validate.scoring.compare import Comparison, ScoredRun
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


def passes(kind: Kind, difference: float, count: int, seed: int = 0) -> int:
    """How many of `count` artifacts, truly worse by `difference`, the gate lets through."""
    random = np.random.default_rng(seed)
    gate = Gate(max_wer_increase=kind.margin, max_latency_ratio=1.0, min_clips=1)
    measured = measurement(kind.clips)
    clips = np.arange(kind.clips)
    through = 0
    with _drawn_once():
        for _ in range(count):
            sides = (ScoredRun(measured, scores, 1) for scores in _scores(kind, difference, random))
            one = Comparison(
                5.0 * np.ones(kind.clips), clips, *sides, clips, 0, 0, 0, [], str.strip
            )
            judged = judging.judge(one, gate, files=1)
            through += next(check for check in judged.checks if check.name == "wer").passed is True
    return through


def _scores(kind: Kind, difference: float, random: Random) -> tuple[Scores, Scores]:
    """The errors of both sides in clips that are drawn anew."""
    words = _lengths(kind.words, kind.clips, random)
    size = 1 / kind.single
    harm = difference * _mean_words(kind.words) / size
    better = max((kind.changed - harm) / 2, 0)
    what, by = random.random(kind.clips), random.geometric(kind.single, kind.clips)
    change = np.where(what < better, -by, np.where(what < 2 * better + harm, by, 0))
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
def _drawn_once() -> Iterator[None]:
    """Make the draws for data of a size once, as they are the same every time; time nothing.

    As float64 they multiply much faster, and as exactly.
    """
    real, some = statistics._resampled, np.ones(2)
    no_time = statistics.median_ratio(some, some)

    @cache
    def drawn(clips: int) -> Sequence[Any]:
        return [weights.astype(np.float64) for weights in real(clips)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_resampled", drawn)
        patch.setattr(judging, "median_ratio", lambda *_: no_time)
        yield


def most_by_chance(count: int, rate: float) -> int:
    """What so many trials of a rate exceed once in a thousand times."""
    return int(np.quantile(np.random.default_rng(0).binomial(count, rate, 1_000_000), 0.999))
