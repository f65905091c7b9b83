"""The gate's statistics: how often an artifact passes that is just too bad, or as good as any."""

from collections.abc import Callable

from tests.support.simulated import (
    ALL_SPEAKERS,
    SHIPPED,
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
