"""Find the longest prefix that passes by bisection: a pure function of what a judge says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_NO_HARM, _JUMP = 1e-3, 3.0


class BudgetSpentError(Exception):
    """The time for the search is over; raised by a judge, and caught by the search."""


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        longest: The longest prefix that is known to pass; None if none is.
        complete: False if the time was over before the search ended.
    """

    longest: int | None
    complete: bool


def longest_prefix(count: int, passes: Callable[[int], bool], guess: Callable[[], int]) -> Found:
    """Return the longest prefix of `count` things that passes.

    The whole is tried first, then a guess, and nothing at all only if no other prefix passes. If a
    prefix fails, longer ones are taken to fail too. There are at most `most_trials` trials.

    Args:
        count: The number of things, at least one.
        passes: Tells whether the prefix of so many things passes; raises `BudgetSpentError` where
            it was not tried for want of time.
        guess: Tells which prefix is likely the longest that passes, once the whole has failed.
    """
    low: int | None = None
    high = count
    try:
        if passes(count):
            return Found(count, complete=True)
        middle = min(max(guess(), 1), count - 1) if count > 1 else 0
        while high - (low or 0) > 1:
            if passes(middle):
                low = middle
            else:
                high = middle
            middle = ((low or 0) + high) // 2
        if low is None and passes(0):
            low = 0
    except BudgetSpentError:
        return Found(low, complete=False)
    return Found(low, complete=True)


def longer_prefix(count: int, passes: Callable[[int], bool], guess: int, trials: int) -> None:
    """Try prefixes of `count` things, of which none passes, and all do not.

    Args:
        count: The number of things.
        passes: Tells whether the prefix of so many things passes, and keeps what passed.
        guess: The prefix that is tried first.
        trials: The most trials.
    """
    low, high, middle = 0, count, min(max(guess, 1), count - 1)
    while high - low > 1 and trials:
        if passes(middle):
            low = middle
        else:
            high = middle
        middle, trials = (low + high) // 2, trials - 1


def most_trials(count: int) -> int:
    """Return the most trials of `longest_prefix`: log2(count) + 3."""
    return 3 + (count - 1).bit_length()


def before_jump(harms: Sequence[float]) -> int:
    """Return how many of some harms, in rising order, lie before the greatest jump.

    Harms below a thousandth of the greatest are taken for equal. Without a jump to at least three
    times the harm before, it is half of them.

    Args:
        harms: The harms, none negative.
    """
    least = max(harms) * _NO_HARM
    if not least:
        return len(harms) // 2
    steps = [max(b, least) / max(a, least) for a, b in pairwise(harms)]
    jump = max(range(len(steps)), key=steps.__getitem__, default=0)
    return jump + 1 if steps and steps[jump] >= _JUMP else len(harms) // 2
