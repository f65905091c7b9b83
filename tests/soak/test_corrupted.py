"""A thousand damaged checkpoints."""

from collections.abc import Callable
from pathlib import Path

from tests.support.corruption import Build, sweep

CASES = 1_000


def test_damaged_checkpoints_are_refused(
    tiny_whisper: Path, build_recipe: Build, record_property: Callable[[str, object], None]
) -> None:
    found = sweep(tiny_whisper, build_recipe, CASES)
    assert not found.wrong, "\n".join(found.wrong)
    record_property("promise", "P5")
    record_property("cases", CASES)
    record_property("measured", found.measured)
