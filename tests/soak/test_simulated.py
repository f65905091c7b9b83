"""The gate's statistics with every recipe's gate, and every way in which int8 changes texts."""

from collections.abc import Callable

import pytest

from tests.support.simulated import (
    ALL_SPEAKERS,
    SHIPPED,
    Kind,
    Speakers,
    most_by_chance,
    passes,
    passes_by_unit,
)

CASES = 2_000


@pytest.mark.parametrize("kind", SHIPPED, ids=str)
def test_the_gate_lets_few_bad_artifacts_through(
    kind: Kind, record_property: Callable[[str, object], None]
) -> None:
    bad, good = passes(kind, kind.margin, CASES), passes(kind, 0, CASES)
    assert bad <= most_by_chance(CASES, 0.05)
    assert good >= 0.6 * CASES
    record_property("promise", "P18")
    record_property("cases", 2 * CASES)
    measured = f"false passes {bad / CASES:.1%}, power {good / CASES:.0%}"
    record_property("measured", f"{kind.clips} clips, margin {kind.margin:.1%}: {measured}")


@pytest.mark.parametrize("data", ALL_SPEAKERS, ids=str)
def test_speakers_are_resampled_for_good_reason(
    data: Speakers, record_property: Callable[[str, object], None]
) -> None:
    by_clips, by_speakers = passes_by_unit(data, CASES)
    assert by_speakers <= most_by_chance(CASES, 0.075)
    record_property("promise", "P18")
    record_property("cases", CASES)
    rates = f"false passes {by_speakers / CASES:.1%}, were clips resampled {by_clips / CASES:.1%}"
    record_property("measured", f"speakers {data}: {rates}")
