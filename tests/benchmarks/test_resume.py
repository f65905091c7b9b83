"""Watching runs that are killed: clips, peaks of memory, parts, and reports that are compared."""

import json
import signal
import sys
import time
from pathlib import Path

import click
import pytest

from benchmarks.resume import (
    Run,
    differences,
    growth,
    killing,
    make_clips,
    row,
    told_of,
    watched,
    without_times,
)
from exporter.formats import audio

# Holds 60 MB, starts a worker that holds 120 MB, and writes parts; after two it may hang.
COMMAND = """
import os, subprocess, sys, time
from pathlib import Path
held = bytearray(60_000_000)
place = Path(os.environ["EXPORTER_CACHE"], "parts", "run")
place.mkdir(parents=True, exist_ok=True)
worker = subprocess.Popen(
    [sys.executable, "-P", "-m", "exporter.system.worker", "tests.benchmarks.test_resume:hold",
     sys.argv[1], str(os.getpid())], stdout=subprocess.DEVNULL)
time.sleep(2)
for number in range(4):
    if number == 2 and "hang" in sys.argv:
        time.sleep(600)
    path = place / f"{number}.jsonl"
    if not path.exists():
        time.sleep(0.5)
        path.write_text("heard")
time.sleep(1)
worker.kill()
worker.wait()
"""


def hold(_request: object, _progress: object) -> dict[str, int]:
    """Hold memory, as a step of a worker does."""
    held = bytearray(120_000_000)
    time.sleep(60)
    return {"held": len(held)}


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"spec": {"original": True}}))
    return [sys.executable, "-c", COMMAND, str(request)]


def test_clips_differ_and_the_manifest_tells_their_seconds(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in make_clips(tmp_path, 202).read_text().splitlines()]
    assert len(rows) == 202
    assert len({audio.examined(tmp_path / each["audio"])[1] for each in rows}) == 202
    first, second = rows[0], rows[100]
    assert (first["text"], first["language"]) == (second["text"], "en")
    assert first["duration"] > second["duration"], "played faster"
    assert audio.examined(tmp_path / first["audio"])[0] == pytest.approx(first["duration"])
    few = make_clips(tmp_path, 2).read_text().splitlines()
    assert [json.loads(line) for line in few] == rows[:2]
    with pytest.raises(click.UsageError, match="at most 10,000 clips"):
        make_clips(tmp_path, 10_001)


def test_a_run_is_killed_in_the_middle_and_repeated(tmp_path: Path, command: list[str]) -> None:
    log = tmp_path / "log"
    whole = watched(command, tmp_path / "whole", log)
    assert (whole.code, len(whole.parts)) == (0, 4)
    assert 60e6 < whole.own_bytes < 110e6
    assert whole.children["original hold"] > 120e6
    half = Run(seen_s={"a": 1.0, "b": 1.5, "c": 3.0, "d": 3.5})
    assert half.middle() == (2, 0.75)
    killed = watched([*command, "hang"], tmp_path / "cache", log, killing(half))
    assert (killed.code, killed.workers) == (-signal.SIGKILL, 1)
    assert len(killed.parts) == 2
    resumed = watched(command, tmp_path / "cache", log)
    told = told_of(whole, killed, resumed, [])
    assert "heard 2 shards; of the 2 it heard 0 again" in told
    assert told.endswith("Its report is the same but for times.")


def test_a_shard_that_is_heard_twice_is_told() -> None:
    whole, killed, resumed = Run(), Run(), Run()
    whole.parts = {"a": 1, "b": 2, "c": 3}
    killed.parts = {"a": 1, "b": 2}
    resumed.parts = {"a": 9, "b": 2, "c": 10}
    told = told_of(whole, killed, resumed, ["words", "prediction 3"])
    assert "when 2 of 3 shards were heard" in told
    assert "heard 1 shards; of the 2 it heard 1 again" in told
    assert told.endswith("Its report differs: words, prediction 3.")


def test_a_command_that_fails_stops_all(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise ValueError('no such thing')"]
    with pytest.raises(SystemExit, match=r"exit code 1\n(.|\n)*no such thing"):
        watched(failing, tmp_path / "cache", tmp_path / "log")


def test_growth_is_bytes_for_each_clip_more() -> None:
    few, many = Run(own_bytes=500_000_000), Run(own_bytes=500_900_000, seconds=12)
    few.children, many.children = {"measure": 10_000_000}, {"measure": 19_000_000}
    assert growth((1_000, few), (10_000, many)) == (
        "From 1,000 to 10,000 clips, bytes for each clip more: own process 100, measure 1,000."
    )
    assert row("10,000", many) == "| 10,000 | 12 s | 500.9 MB | measure 19 |"


def test_reports_are_compared_without_times(tmp_path: Path) -> None:
    for name, rtf, text in (("one", 0.1, "a"), ("two", 0.2, "a"), ("three", 0.1, "b")):
        place = tmp_path / name
        place.mkdir()
        checks = [{"name": "latency", "passed": name == "one"}, {"name": "wer", "passed": True}]
        report = {"created": name, "figures": {"rtf": rtf, "wer": 0.1}, "checks": checks}
        (place / "report.json").write_text(json.dumps(report))
        lines = [{"pred_text": "same", "time": rtf}, {"pred_text": text, "time": rtf}]
        (place / "predictions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert differences(tmp_path / "one", tmp_path / "two") == []
    assert differences(tmp_path / "one", tmp_path / "three") == ["prediction 2"]
    assert without_times({"checks": [{"name": "wer", "passed": True, "sentence": "x"}]}) == {
        "checks": [{"name": "wer", "passed": True}]
    }
