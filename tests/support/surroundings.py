"""The command in surroundings that nobody planned: other folders, users, locales, streams."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from exporter.artifact import lookup, store

RECIPE = """\
name: tiny
checkpoint: checkpoint
targets:
{targets}
decoding: {{language: en, task: transcribe}}
data: {{clips: clips}}
gate: {{min_clips: 1, max_latency_ratio: 100, max_wer_increase: 1, max_reference_wer: 1000}}
"""
TEXTS = ("red green blue", "größer, 日本語 — “naïve”", "two one")


def furnished(folder: Path, checkpoint: Path, *kinds: str) -> Path:
    """A user's folder: a recipe, a checkpoint, and clips of which one is not in ASCII."""
    folder.mkdir(parents=True)
    shutil.copytree(checkpoint, folder / "checkpoint")
    (folder / "clips").mkdir()
    source = np.random.default_rng(0)
    rows = []
    for number, text in enumerate(TEXTS):
        samples = source.normal(0, 0.1, 16_000 * (1 + number))
        soundfile.write(folder / "clips" / f"{number}.wav", samples, 16_000)
        rows.append(json.dumps({"audio": f"{number}.wav", "text": text}, ensure_ascii=False) + "\n")
    (folder / "clips" / "manifest.jsonl").write_text("".join(rows), encoding="utf-8")
    targets = "\n".join(f"  - kind: {kind}" for kind in kinds)
    (folder / "tiny.yaml").write_text(RECIPE.format(targets=targets), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Surroundings:
    """What is unlike a plain shell; a variable that is None is not set.

    `folder` is where the recipe lies, below the test's own; `around` goes before the command.
    """

    variables: Mapping[str, str | None] = field(default_factory=dict)
    folder: str = "place"
    around: Sequence[str] = ()
    before: Callable[[], object] | None = None

    def run(self, place: Path, *arguments: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
        """Run the command in the place."""
        changed = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **self.variables}
        return subprocess.run(
            [*self.around, sys.executable, "-m", "exporter", *arguments],
            **{"cwd": place, "capture_output": True, "check": False, **how},
            env={name: value for name, value in changed.items() if value is not None},
            preexec_fn=self.before,
        )


def sealed(output: Path) -> dict[str, dict[str, str]]:
    """By artifact: its build key, and the hash of each of its files; all are verified."""
    return {
        folder.name: {"build_key": manifest.build_key}
        | {file.path: file.sha256 for file in manifest.files}
        for folder in lookup.inside(output / "tiny")
        for manifest in [store.verify(folder)]
    }


def one_core() -> None:
    """On the first of our cores alone."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def closed(*numbers: int) -> Callable[[], None]:
    """Without these of the standard streams."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def nowhere() -> None:
    """Stand in a folder that is gone."""
    gone = Path("gone").absolute()
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
