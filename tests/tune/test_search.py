"""The search by bisection, against judges that stand for builds."""

import pytest

from exporter.tune.search import (
    BudgetSpentError,
    Found,
    before_jump,
    longer_prefix,
    longest_prefix,
    most_trials,
)


def searched(count: int, longest: int | None, guess: int) -> tuple[Found, list[int]]:
    """Search where prefixes up to `longest` pass, or none at all."""
    tried: list[int] = []

    def passes(prefix: int) -> bool:
        tried.append(prefix)
        return longest is not None and prefix <= longest

    return longest_prefix(count, passes, lambda: guess), tried


@pytest.mark.parametrize("count", [1, 2, 3, 18, 37, 100])
def test_the_longest_prefix_is_found_in_few_trials(count: int) -> None:
    for longest in (None, *range(count + 1)):
        for guess in {0, 1, count // 2, count - 1, count}:
            found, tried = searched(count, longest, guess)
            assert found == Found(longest, complete=True)
            assert len(tried) <= most_trials(count)
            assert len(set(tried)) == len(tried), "no plan is judged twice"


def test_what_passes_whole_is_tried_once() -> None:
    assert searched(30, 30, 15)[1] == [30]


def test_a_good_guess_ends_the_search_at_once() -> None:
    assert searched(18, 16, 16)[1] == [18, 16, 17]


def test_only_what_fails_everywhere_is_tried_in_float() -> None:
    assert searched(8, None, 4)[1][-1] == 0
    assert 0 not in searched(8, 1, 4)[1]


@pytest.mark.parametrize(("trials", "known"), [(0, None), (1, None), (2, 4), (3, 6), (9, 7)])
def test_time_that_is_over_leaves_the_best_so_far(trials: int, known: int | None) -> None:
    left = trials

    def passes(prefix: int) -> bool:
        nonlocal left
        if not left:
            raise BudgetSpentError
        left -= 1
        return prefix <= 7

    found = longest_prefix(9, passes, lambda: 4)
    assert found == Found(known, complete=trials == 9)


def test_the_guess_may_find_no_time_either() -> None:
    def no_time() -> int:
        raise BudgetSpentError

    assert longest_prefix(9, lambda _: False, no_time) == Found(None, complete=False)


@pytest.mark.parametrize(
    ("count", "longest", "guess", "tried"),
    [
        (2, 1, 1, [1]),
        (6, 4, 4, [4, 5]),
        (6, 0, 4, [4, 2, 1]),
        (40, 30, 5, [5, 22, 31]),
        (6, 5, 0, [1, 3, 4]),
        (1, 0, 1, []),
    ],
)
def test_a_longer_prefix_is_tried_a_few_times(
    count: int, longest: int, guess: int, tried: list[int]
) -> None:
    asked: list[int] = []

    def passes(prefix: int) -> bool:
        asked.append(prefix)
        return prefix <= longest

    longer_prefix(count, passes, guess, 3)
    assert asked == tried


@pytest.mark.parametrize(
    ("harms", "before"),
    [
        ([1e-9, 1e-5, 2e-5, 3e-5, 0.03, 0.09], 4),
        ([0.0, 0.0, 0.5], 2),
        ([0.1, 0.11, 0.12, 0.13], 2),
        ([0.0, 0.0, 0.0, 0.0], 2),
        ([0.3], 0),
    ],
)
def test_the_jump(harms: list[float], before: int) -> None:
    assert before_jump(harms) == before
