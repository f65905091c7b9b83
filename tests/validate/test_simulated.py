"""The gate's statistics: how often an artifact passes that is just too bad, or as good as any."""

from collections.abc import Callable

import numpy as np
import pytest

from exporter.validate.scoring import statistics
from tests.support.simulated import (
    ALL_SPEAKERS,
    SHIPPED,
    Speakers,
    decided,
    most_by_chance,
    passes,
    passes_by_unit,
)


def test_the_gate_lets_few_bad_artifacts_through(
    record_property: Callable[[str, object], None],
) -> None:
    """Few simulations here, for the worst of the kinds; `soak` has them all."""
    kind, count = SHIPPED[1], 200
    bad, good = passes(kind, kind.margin, count), passes(kind, 0, count)
    assert bad <= most_by_chance(count, 0.05)
    assert good >= 0.8 * count
    record_property("promise", "P18")
    record_property("cases", 2 * count)
    record_property("measured", f"false passes {bad / count:.1%}, power {good / count:.0%}")


def test_clips_of_one_speaker_are_no_independent_evidence() -> None:
    """The size of LibriSpeech test-clean; `soak` has more."""
    unlike, count = ALL_SPEAKERS[2], 300
    by_clips, by_speakers = passes_by_unit(unlike, count)
    assert by_clips >= 0.2 * count
    assert by_speakers <= most_by_chance(count, 0.075)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to see what the looks make of the intervals."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)


@pytest.mark.usefixtures("few_resamples")
def test_what_is_as_good_as_its_original_needs_few_clips() -> None:
    found = list(decided(Speakers(10_000, 1, 0), 0.005, 0, 40))
    assert all(each.passed for each in found)
    assert np.median([each.clips for each in found]) == 300


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("data", [Speakers(3_000, 1, 0), Speakers(100, 30, 0.5)])
def test_several_looks_let_as_few_bad_artifacts_through_as_one(data: Speakers) -> None:
    found = list(decided(data, 0.005, 0.005, 150))
    assert sum(each.passed is True for each in found) <= most_by_chance(150, 0.05)
