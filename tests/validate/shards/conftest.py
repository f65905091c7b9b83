"""Shards of two clips, and reports without what the clock says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact.report import Report
from exporter.system.progress import silent
from exporter.validate import pipeline, validation
from exporter.validate.rounds import PartsHeard
from exporter.validate.subjects import Settings

Hear = Callable[..., PartsHeard]

# Figures of time and memory, and checks of these, whose sentences have them too.
_OF_TIME = {
    *("created", "page_sha256", "predictions_sha256", "latency_ratio", "latency_ratio_p95"),
    *("latency_median_s", "latency_p95_s", "rtf", "rtfx", "load_s", "peak_rss_bytes", "passes"),
    *("load_average", "sentence", "time", "time_reference", "latency_ratio_median"),
}
_CHECKS = {"latency", "lengths", "call times", "memory"}


def without_times(data: Any) -> Any:
    """A report or a prediction as plain data, without what another run has another value of."""
    if isinstance(data, Report):
        plain = data.model_dump(mode="json", exclude={"sha256"})  # over all others
        plain["checks"] = [each for each in plain["checks"] if each["name"] not in _CHECKS]
        sentences = [each["sentence"] for each in plain["checks"]]
        return [without_times(plain), sentences]
    if isinstance(data, dict):
        return {name: without_times(each) for name, each in data.items() if name not in _OF_TIME}
    return [without_times(each) for each in data] if isinstance(data, list) else data


def predictions(folder: Path) -> Any:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return without_times([json.loads(line) for line in lines])


@pytest.fixture
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "windows_of", lambda _parameters, *, original: 3 - original)


@pytest.fixture
def hear(tmp_path: Path, tiny_whisper: Path) -> Hear:
    """Hear one part of the work, in this process."""

    def hearing(part: tuple[int, int], *names: str, **how: Any) -> PartsHeard:
        known: dict[str, Any] = {
            "data": str(tmp_path / "clips"),
            "max_clips": None,
            "reference": str(tiny_whisper),
            "threads": 1,
            "workers": 1,
            "trust": False,
            "until": "all",
            "store": str(tmp_path / "store"),
        }
        settings = Settings(**{**known, **how, "part": part})
        return pipeline.hear_part([tmp_path / name for name in names], settings, silent)

    return hearing
