"""Damaged checkpoints: one error each, that names what is damaged, and nothing is written.

The real command builds the real torch-int8 artifact; only its processes are this one.
"""

from collections.abc import Callable
from pathlib import Path

from tests.support.corruption import Build, sweep


def test_damaged_checkpoints_are_refused(
    tiny_whisper: Path, build_recipe: Build, record_property: Callable[[str, object], None]
) -> None:
    cases = 60
    found = sweep(tiny_whisper, build_recipe, cases)
    assert not found.wrong, "\n".join(found.wrong)
    record_property("promise", "P5")
    record_property("cases", cases)
    record_property("measured", found.measured)
