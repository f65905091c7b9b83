"""The comparison of schemes: real artifacts of a toy checkpoint, timed once, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import schemes


@pytest.mark.slow
@pytest.mark.sweep
def test_each_scheme_is_built_timed_and_told_once(tmp_path: Path, tiny_whisper: Path) -> None:
    figures = tmp_path / "schemes.json"
    files = ["--results", str(figures), "--picture", str(tmp_path / "schemes.svg")]
    command = ["decoder", str(tiny_whisper), "--work", str(tmp_path / "work"), *files]
    command += ["--no-demo", "--tokens", "3", "--rounds", "2", "--threads", "1"]
    command += ["--target", "torch-int8", "--scheme", "weight-int8", "--scheme", "weight-int4"]
    told = [CliRunner().invoke(schemes.main, command, catch_exceptions=False) for _ in range(2)]
    assert told[0].output == told[1].output, "what is measured is not measured again"
    assert "ms / token" in told[0].output
    assert "weight-int4, torch-int8" in (tmp_path / "schemes.svg").read_text()
    rows = json.loads(figures.read_text())[f"decoder {tiny_whisper.name}"]["rows"]
    large, small = (rows[f"weight-int{bits} torch-int8"] for bits in (8, 4))
    assert small["size_bytes"] < large["size_bytes"]
    assert [len(row["seconds"]) for row in (large, small)] == [2, 2]


def test_the_table_tells_medians_and_leaves_out_what_is_not_measured() -> None:
    row = {"size_bytes": 2_500_000, "seconds": [0.009, 0.001, 0.002]}
    wer = {"reference_wer": 0.1, "wer": 0.125}
    rows = {"weight-int4 aoti": row | wer, "dynamic-int8 onnx-int8": {"size_bytes": 10**6}}
    told = {"decoder small": {"cpu": "a CPU", "threads": 2, "unit": "token", "rows": rows}}
    lines = schemes.table(told).splitlines()
    assert lines[0] == "decoder of small: a CPU, 2 threads"
    assert lines[4] == "| weight-int4 | aoti | 2.5 | 2.00 | 10.00% | 12.50% |"
    assert lines[5] == "| dynamic-int8 | onnx-int8 | 1.0 |  |  |  |"
