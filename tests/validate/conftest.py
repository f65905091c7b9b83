"""Whole validations in this process, of copies of a golden artifact."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.artifact.report import Report
from exporter.engine import environment
from exporter.engine.executors import Answer, Task
from exporter.system.progress import Progress
from exporter.validate import pipeline
from tests.support.golden import GOLDEN
from tests.support.recordings import write_clips


class Here:
    """An executor of a number of workers, that runs their steps in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.environment = environment.describe()

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[int, Answer]]:
        for place, task in enumerate(tasks):
            if task.is_done():
                yield place, {}
                continue
            module, _, function = task.step.partition(":")
            with task.prepared() as request:
                yield place, getattr(import_module(module), function)(request, progress)


@pytest.fixture
def judged(
    tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, steps_here: None
) -> Callable[..., list[Report]]:
    """Judge copies of a golden artifact against a checkpoint, with a clock that only counts."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("exporter.bench.clock.time", clock)
    monkeypatch.setattr(pipeline, "LocalExecutor", Here)
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    write_clips(tmp_path / "clips", 7)

    def judge(*names: str, **how: Any) -> list[Report]:
        folders = [tmp_path / name for name in names]
        for folder in folders:
            shutil.copytree(GOLDEN / "v1-torch-int8", folder)
        known = {"reference": str(tiny_whisper), "data": str(tmp_path / "clips")}
        return pipeline.validate(folders, threads=1, **{**known, **how})

    return judge
