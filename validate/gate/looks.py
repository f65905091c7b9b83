"""When to look: a gate that hears clips in an order, and stops as soon as it is sure.

The level is shared evenly over the looks that are planned. By the union bound, an artifact that is
just too bad then passes at all of them together no more often than at one look at the whole level,
however the looks depend on each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile

from exporter.artifact.report import LookStamp
from exporter.validate.corpus.order import Order
from exporter.validate.scoring.statistics import LEVEL

FIRST = 300  # clips; what is as good as its original usually needs no more at half a point
# Looks that are closer cost more of the level than they save of the clips.
_APART = 1.5


@dataclass(frozen=True)
class Looks:
    """The looks that are planned.

    Attributes:
        order: The order of the clips.
        sizes: How many clips are read up to each look, ascending; at the last one, all.
    """

    order: Order
    sizes: tuple[int, ...]

    @property
    def level(self) -> float:
        """The confidence level of each look's intervals."""
        return 1 - (1 - LEVEL) / len(self.sizes)

    def stamp(self, made: int) -> LookStamp:
        """Return what a report says of them, if `made` looks were made."""
        return LookStamp(planned=self.sizes, made=made, level=self.level, seed=self.order.seed)


def planned(order: Order, least: int) -> Looks | None:
    """Plan looks at 300 clips, 1,000, 3,000, 10,000 and so on.

    Args:
        order: The order of the clips.
        least: The least clips at the first look.

    Returns:
        The looks; None if the first one would be at nearly all clips, so that one is enough.
    """
    clips = len(order.places)
    sizes: list[int] = []
    for size in (max(FIRST, least, order.fewest), *_ladder(clips)):
        if sizes and size < _APART * sizes[-1]:
            continue
        if clips < _APART * size:
            break
        sizes.append(size)
    return Looks(order, (*sizes, clips)) if sizes else None


def _ladder(clips: int) -> Iterator[int]:
    """Yield 1,000, 3,000, 10,000, 30,000 and so on below a number of clips."""
    steps = (factor * 10**power for power in count(3) for factor in (1, 3))
    return takewhile(lambda step: step < clips, steps)
