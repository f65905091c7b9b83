"""Measuring what builds cost: the sampler, the figures, their table, page and picture."""

import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks.build_cost import run
from benchmarks.build_cost.peak_memory import watch
from benchmarks.build_cost.plot import draw
from benchmarks.build_cost.results import fill_in, open_results, save_results, table

ROOT = Path(__file__).resolve().parents[2]
ALLOCATE = "import time; held = b'x' * {}; time.sleep({})"
UNLIMITED = {"memory_limit": 1 << 40, "time_limit_s": 60}


def child(size: int, seconds: float) -> str:
    """The arguments, as source text, of a process that holds memory in a group of its own."""
    script = ALLOCATE.format(size, seconds)
    return f"[sys.executable, '-c', {script!r}], start_new_session=True"


def test_the_peak_is_that_of_the_whole_tree() -> None:
    script = f"import subprocess, sys; subprocess.run({child(200_000_000, 0.3)})"
    done = watch([sys.executable, "-c", script], **UNLIMITED)
    assert done.returncode == 0
    assert done.killed_for is None
    assert 0.3 < done.seconds < 30
    assert 200e6 < done.peak_bytes < 300e6


@pytest.mark.parametrize(
    ("limit", "why"),
    [({"memory_limit": 100_000_000}, "memory"), ({"time_limit_s": 0.5}, "time")],
    ids=["memory", "time"],
)
def test_what_passes_a_limit_is_ended_with_its_children(limit: dict[str, Any], why: str) -> None:
    born = f"print(subprocess.Popen({child(200_000_000, 60)}).pid, flush=True)"
    script = f"import subprocess, sys, time; {born}; time.sleep(60)"
    done = watch([sys.executable, "-c", script], **UNLIMITED | limit)
    assert done.killed_for == why
    assert done.returncode == -9
    assert done.seconds < 30
    status = Path(f"/proc/{int(done.stdout)}/stat")
    assert not status.exists() or " Z " in status.read_text(), "the child lives on"


def test_the_environment_and_the_output_pass_through() -> None:
    script = "import os, sys; print(os.environ['WORD']); sys.exit('a complaint')"
    done = watch([sys.executable, "-c", script], **UNLIMITED, environment={"WORD": "one"})
    assert (done.returncode, done.stdout, done.stderr) == (1, "one\n", "a complaint\n")
    assert "WORD" not in os.environ


def canned() -> dict[str, Any]:
    """Figures of two shapes; optimum's build of the large one was killed."""
    whole = {"command_s": 20.0, "command_peak_bytes": 900_000_000, "killed_for": None}
    decoded = {"tokens": [1, 2], "load_s": 0.1, "token_s": 0.003}
    estimated = {"size_bytes": 100_000_000, "peak_rss_bytes": 500_000_000, "seconds": 10.0}
    ours = {
        **whole,
        "build_s": 12.3,
        "build_peak_bytes": 600_000_000,
        "predicted": estimated,
        "size_bytes": 101_000_000,
        **decoded,
    }
    theirs = {**whole, "size_bytes": 150_000_000, **decoded}
    killed = {"command_s": 151.2, "command_peak_bytes": 22_000_000_000, "killed_for": "memory"}
    sizes = {"ideal_bytes": 100_000_000, "checkpoint_bytes": 200_000_000}
    return {
        "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 24_000_000_000},
        "versions": {"torch": "2.0"},
        "shapes": {
            "large-v3": {
                "parameters": 1_543_000_000,
                **sizes,
                "ways": {"onnx-int8": ours, "optimum": killed},
            },
            "tiny": {
                "parameters": 39_000_000,
                **sizes,
                "ways": {"onnx-int8": ours, "optimum": theirs},
            },
        },
    }


def test_the_table_tells_figures_and_kills_small_shapes_first() -> None:
    lines = table(canned()).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:6]]
    assert {len(row) for row in cells} == {10}
    assert cells[2][:6] == ["tiny, 39 M", "onnx-int8", "12 s", "0.60 GB", "20 s", "0.90 GB"]
    assert cells[2][6:] == ["101.0 MB", "1.010", "10 s, 0.50 GB", "3.0 ms"]
    assert cells[3][:5] == ["", "optimum", "", "", "20 s"]
    assert cells[4][0] == "large-v3, 1543 M"
    assert cells[5][4] == "killed at 22.0 GB after 151 s"
    assert lines[-1] == "2 cores of a processor, 24.0 GB of memory; torch 2.0."


def test_the_page_has_a_place_for_the_table(repository: Path, tmp_path: Path) -> None:
    page = tmp_path / "building.md"
    page.write_text((repository / "docs" / "building.md").read_text())
    fill_in(page, "first")
    fill_in(page, "| second |")
    assert "first\n" not in page.read_text()
    assert "\n| second |\n" in page.read_text()
    with pytest.raises(click.ClickException, match="no place"):
        fill_in(repository / "README.md", "")


def test_the_picture_is_xml_with_a_line_per_way_and_a_cross_for_a_kill() -> None:
    root = ET.fromstring(draw(canned()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    classes = [element.get("class") for element in root.iter()]
    assert classes.count("cross") == 2
    assert classes.count("line lost") == 2
    assert classes.count("line") == 2 + 2, "the legend's two, and ours in each panel"
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"tiny", "large-v3", "1543 M", "killed", "optimum's own"} <= words


def test_a_run_goes_on_with_what_it_has(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is tried again, what is measured stays; the page waits until all is well."""
    asked: list[str] = []
    figures = canned()["shapes"]["tiny"]["ways"]["onnx-int8"]

    def measure(_bench: object, _folder: Path, way: str) -> dict[str, Any]:
        asked.append(way)
        return {"failed": "no"} if len(asked) == 2 else figures

    monkeypatch.setattr(run, "measure", measure)
    (tmp_path / "tiny").symlink_to(tiny_whisper)
    page = tmp_path / "building.md"
    page.write_text("<!-- build_shapes -->\n<!-- /build_shapes -->\n")
    arguments = ["--shape", "tiny", "--work", str(tmp_path), "--docs", str(page)]
    arguments += ["--output", str(tmp_path / "figures.json")]
    first = CliRunner().invoke(run.main, arguments)
    assert first.exit_code == 1
    assert "failed: no" in first.output
    assert "|" not in page.read_text()
    second = CliRunner().invoke(run.main, arguments, catch_exceptions=False)
    assert second.exit_code == 0
    assert asked == [*run.WAYS, run.WAYS[1]]
    assert "101.0 MB" in page.read_text()
    ET.parse(tmp_path / "build-cost.svg")


def test_figures_of_another_machine_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    save_results(path, canned())
    assert json.loads(path.read_text()) == canned()
    with pytest.raises(click.ClickException, match="another machine"):
        open_results(path)


def test_no_label_of_the_picture_lies_on_a_line() -> None:
    picture = (ROOT / "docs" / "build-cost.svg").read_text(encoding="utf-8")
    assert picture == draw(json.loads((ROOT / "benchmarks/results/build_shapes.json").read_text()))
    labels = re.findall(r'x="([0-9.]+)" y="([0-9.]+)"[^>]*>killed<', picture)
    lines = re.findall(
        r'class="line[^"]*"[^>]*d="M([0-9.]+) ([0-9.]+)L([0-9.]+) ([0-9.]+)"', picture
    )
    assert len(labels) == 2
    for x, y in (map(float, label) for label in labels):
        for x1, y1, x2, y2 in (map(float, line) for line in lines):
            for at in (x - 15, x, x + 15):
                share = (at - x1) / (x2 - x1) if x2 != x1 else 2
                assert not (0 <= share <= 1 and y - 10 < y1 + share * (y2 - y1) < y)


def test_tokens_agree_up_to_a_near_tie() -> None:
    ours = {"tokens": [1, 2, 3], "margins": [2.0, 0.05, 3.0]}
    same = {"tokens": [1, 2, 3], "margins": [2.0, 0.06, 3.0]}
    tied = {"tokens": [1, 4, 5], "margins": [2.0, 0.06, 3.0]}
    other = {"tokens": [6, 2, 3], "margins": [0.01, 0.06, 3.0]}
    assert run.agree(ours, same)
    assert run.agree(ours, tied)
    assert not run.agree(ours, other)
    assert not run.agree(ours, tied | {"margins": [2.0, 1.0, 3.0]})
