"""Builds of corrupted checkpoints: one error each, and nothing written."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.corrupted import damage, means_the_same


@dataclass
class Sweep:
    """What became of the damaged checkpoints."""

    refused: int = 0
    harmless: int = 0
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def measured(self) -> str:
        ordered = sorted(self.seconds)
        p99 = ordered[round(0.99 * (len(ordered) - 1))]
        return (
            f"{self.refused} refused, {self.harmless} damaged without effect; "
            f"p99 {p99:.2f} s, at most {ordered[-1]:.2f} s"
        )


Build = Callable[[], tuple[int, str]]


def sweep(pristine: Path, build: Build, count: int) -> Sweep:
    """Build from the whole checkpoint, which also imports all, then from `count` damaged ones."""
    found, folder = Sweep(), Path("checkpoint")
    shutil.copytree(pristine, folder)
    assert build() == (0, "")
    shutil.rmtree("artifacts")
    for number in range(count):
        kind, named = damage(pristine, folder, number)
        start = time.monotonic()
        code, error = build()
        found.seconds.append(time.monotonic() - start)
        left = [path for path in Path().glob("artifacts/*/*") if not path.name.endswith(".lock")]
        shutil.rmtree("artifacts", ignore_errors=True)
        if code == 0 and kind == "flipped_header" and means_the_same(folder, pristine):
            found.harmless += 1
        elif reason := _complaint(code, error, named, left):
            found.wrong.append(f"{number} {kind}: {reason}: {error}")
        else:
            found.refused += 1
    return found


def _complaint(code: int, error: str, named: tuple[str, ...], left: list[Path]) -> str | None:
    """What is wrong with how a damaged checkpoint was refused."""
    lines = error.splitlines()
    if code != 3:
        return f"exit code {code}"
    if not 1 <= len(lines) <= 3 or not lines[0].startswith("error: "):
        return "not one error of one to three lines"
    if "Traceback" in error or sum(line.startswith("error: ") for line in lines) != 1:
        return "more than one error"
    if absent := [name for name in named if name not in error]:
        return f"does not name {absent}"
    return f"left {left}" if left else None
