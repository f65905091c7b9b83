"""Measuring long recordings beside faster-whisper: the parts, and the table."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.peers import recordings
from benchmarks.peers.results import save_results
from benchmarks.peers.systems import CONVERSIONS, ENVIRONMENTS, OWN, RECORDING_RIVALS


def row(label: str, seconds: float) -> dict[str, Any]:
    return {
        "label": label,
        "run": "today",
        "seconds": {
            "median": seconds,
            "min": seconds,
            "q1": seconds,
            "q3": seconds,
            "max": seconds,
        },
        "tokens_per_s": 64 / seconds,
        "rtf": seconds / 600,
        "ready_s": 1.0,
        "peak_rss_bytes": 500_000_000,
        "size_bytes": 250_000_000,
    }


def test_every_rival_has_its_parts(repository: Path) -> None:
    workers = repository / "benchmarks" / "peers" / "workers"
    for rival in RECORDING_RIVALS.values():
        assert rival.environment in {OWN, *ENVIRONMENTS}
        assert rival.conversion in CONVERSIONS
        assert (workers / f"{rival.worker.replace('.', '/')}.py").exists()


def test_each_is_compared_with_the_pipeline_of_its_kind(tmp_path: Path) -> None:
    seconds = dict(zip(RECORDING_RIVALS, (12.0, 15.0, 8.0, 10.0, 60.0, 40.0), strict=True))
    rivals = {name: row(RECORDING_RIVALS[name].label, seconds[name]) for name in seconds}
    results = {
        "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 24_000_000_000, "features": []},
        "entries": [
            {
                "shape": "small",
                **{"tokens": 64, "threads": 2, "batch": 1, "beams": 1},
                "parameters": 242_000_000,
                "rivals": rivals,
            }
        ],
    }
    path = tmp_path / "recordings.json"
    save_results(path, results)
    done = CliRunner().invoke(recordings.main, ["--results", str(path)], catch_exceptions=False)
    lines = {line.split(" | ")[0].strip("| "): line for line in done.output.splitlines()}
    assert "| 0.20 |" in lines["aoti"]
    assert "| 0.20 |" in lines["aoti, chunks of speech"]
    assert "| 0.25 |" in lines["onnx-int8"]
    assert "| 1.00 |" in lines["faster-whisper int8, batched"]
    assert "10 minutes" in done.output
