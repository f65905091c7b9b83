"""The order in which clips are heard look by look: shuffled by a seed, whole units one by one."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.formats.clips import Clip
from exporter.validate.scoring.units import Units, units_of


@dataclass(frozen=True)
class Order:
    """An order of clips.

    Attributes:
        places: The clips' indices in the data, int64 [clips].
        ends: How many clips are heard once each unit is complete, ascending, int64 [units].
        units: What a bootstrap over all clips resamples.
        seed: What the order is drawn by.
    """

    places: NDArray[np.int64]
    ends: NDArray[np.int64]
    units: Units
    seed: int


def order_of(clips: Iterable[Clip], seed: int) -> Order:
    """Draw the order of clips; those of a speaker (or of what the units are) stay together."""
    return drawn(units_of((clip.speaker, clip.recording) for clip in clips), seed)


def drawn(units: Units, seed: int) -> Order:
    """Draw the order of clips whose units are known."""
    index = np.arange(units.stamp.count) if units.index is None else units.index
    ranks = list(range(units.stamp.count))
    random.Random(seed).shuffle(ranks)
    turn = np.array(ranks, dtype=np.int64)[index]
    return Order(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn)), units, seed)
