"""The order in which clips are heard look by look: shuffled by a seed.

Clips are shuffled, and not whole speakers, so that the first ones are of as many speakers as can
be. Simulated, whole speakers let about twice as many artifacts through that are just too bad: an
early look would know few of them, and judge the others by these (see docs/validation.md).
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from exporter.formats.clips import Clip
from exporter.validate.scoring.units import LEAST_UNITS, Units, units_of


@dataclass(frozen=True)
class Order:
    """An order of clips.

    Attributes:
        places: The clips' indices in the data, int64 [clips].
        fewest: The number of first clips that have enough units to resample.
        seed: What the order is drawn by.
        unit: What these units are, as `UnitStamp` names them.
    """

    places: NDArray[np.int64]
    fewest: int
    seed: int
    unit: str = "clip"

    def by_looks(self, sizes: Sequence[int]) -> Iterator[int]:
        """Yield the clips of each look in the data's order.

        So tables, archives and long recordings are read from their beginning to their end.

        Args:
            sizes: How many clips are read up to each look, ascending.
        """
        for start, end in pairwise((0, *sizes)):
            yield from np.sort(self.places[start:end]).tolist()

    def has_units(self, heard: Units) -> bool:
        """Return whether first clips have units enough, also where some could not be read.

        Without them clips would count as independent, and their interval would be too narrow.

        Args:
            heard: The units of the clips that were heard.
        """
        return self.unit in ("clip", heard.stamp.name)


def order_of(clips: Iterable[Clip], seed: int) -> Order:
    """Draw the order of clips."""
    units = units_of((clip.speaker, clip.recording) for clip in clips)
    return drawn(units.stamp.count if units.index is None else len(units.index), units, seed)


def drawn(clips: int, units: Units, seed: int) -> Order:
    """Draw the order of a number of clips whose units are known."""
    shuffled = list(range(clips))
    random.Random(seed).shuffle(shuffled)
    places = np.array(shuffled, dtype=np.int64)
    if units.index is None:
        return Order(places, 1, seed)
    _, first = np.unique(units.index[places], return_index=True)  # of each unit
    fewest = int(np.sort(first)[LEAST_UNITS - 1]) + 1
    return Order(places, fewest, seed, units.stamp.name)
