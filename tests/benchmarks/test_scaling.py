"""Measuring processes side by side, and what corpora cost: the parts, the tables, the page."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import corpus_cost, scaling
from benchmarks.peers.results import save_results
from benchmarks.peers.rounds import Bench, Failed, Setting
from benchmarks.scaling import KINDS, Layout, LayoutType, layouts, measure, tables, together

TOKENS = 4


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Setting(TOKENS, 1, 1, 1), 2, 1 << 40, 120, None)


def row(rate: float, memory: int = 500_000_000) -> dict[str, Any]:
    return {"label": "a kind", "windows_per_h": {"median": rate}, "peak_rss_bytes": memory}


def canned() -> dict[str, Any]:
    """Three layouts of one shape, of which one failed."""
    setting = {"shape": "small", "tokens": 64, "batch": 1, "beams": 1, "parameters": 242_000_000}
    one = {"1": row(1000), "2": row(1500), "4": {"label": "aoti", "failed": "killed"}}
    two = {"1": row(1800.4, 700_000_000)}
    machine = {"cpu": "a CPU", "cores": 2, "memory_bytes": 24_000_000_000, "features": ["avx2"]}
    entries = [
        {**setting, "threads": 2, "kinds": {"aoti": two}},
        {**setting, "threads": 1, "kinds": {"aoti": one, "original": {"1": row(90)}}},
    ]
    return {"machine": machine, "entries": entries}


def test_layouts_fill_the_cores_and_no_more() -> None:
    found = [str(each) for each in layouts(4)]
    assert found == ["1 x 1", "2 x 1", "4 x 1", "1 x 2", "2 x 2", "1 x 4"]
    assert max(each.processes * each.threads for each in layouts(6)) == 4


@pytest.mark.parametrize("wrong", ["2", "x2", "0x1", "2x0", "2x-1", "2 x 2"])
def test_a_layout_is_two_numbers(wrong: str) -> None:
    assert LayoutType().convert("4x2", None, None) == Layout(processes=4, threads=2)
    with pytest.raises(click.BadParameter, match="like 4x2"):
        LayoutType().convert(wrong, None, None)


@pytest.mark.slow
def test_processes_transcribe_at_the_same_time(
    tiny_whisper: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "DISTURBED", 1.0)
    sound = bench.work / "audio.npy"
    np.save(sound, np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32))
    layout = Layout(processes=2, threads=1)
    told = together(bench, tiny_whisper, KINDS["original"], str(tiny_whisper), sound, layout)
    assert len(told["seconds"]) == 2 * bench.runs
    longest_s = 3600 * 2 * bench.runs / told["windows_per_h"]
    assert max(told["seconds"]) <= longest_s, "from the first beginning to the last end"
    assert told["peak_rss_bytes"] > 1e7
    with pytest.raises(Failed, match="Error"):
        together(bench, tiny_whisper, KINDS["original"], str(bench.work), sound, layout)


def test_a_failure_is_a_row_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*words: Any) -> dict[str, Any]:
        if words[-1].processes == 2:
            msg = "killed for want of memory"
            raise Failed(msg)
        rate = {"windows_per_h": 100.0 * words[-1].threads, "seconds": [1.0]}
        return {**rate, "peak_rss_bytes": 5, "foreign_share": 0.0, "versions": {}}

    monkeypatch.setattr(scaling, "together", answer)
    monkeypatch.setattr(scaling, "convert", lambda *_, **__: {"model": "there"})
    found = measure(bench, Path("shape"), {"aoti": KINDS["aoti"]}, layouts(2), 2, again=False)
    rows = {str(layout): row for _, layout, row in found}
    assert rows["2 x 1"]["failed"] == "killed for want of memory"
    assert rows["1 x 1"]["windows_per_h"]["all"] == [100.0, 100.0]
    assert rows["1 x 2"]["windows_per_h"]["median"] == 200.0


def test_the_table_has_a_row_for_each_layout() -> None:
    assert tables(canned()).splitlines()[2:] == [
        "| processes x threads | aoti | float32 original |",
        "| --- | ---: | ---: |",
        "| 1 x 1 | 1,000 | 90 |",
        "| 2 x 1 | 1,500 (1.50) |  |",
        "| 4 x 1 | cannot: killed |  |",
        "| 1 x 2 | 1,800 |  |",
        "| memory of a process | 0.70 GB | 0.50 GB |",
        "",
        "2 cores of a CPU (avx2), 24.0 GB of memory.",
    ]


def test_without_checkpoints_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    empty = CliRunner().invoke(scaling.main, ["--results", str(path)])
    assert empty.exit_code == 2
    assert "holds no figures" in empty.output
    save_results(path, canned())
    told = CliRunner().invoke(scaling.main, ["--results", str(path)], catch_exceptions=False)
    assert told.output.strip() == tables(canned())
    unkept = CliRunner().invoke(scaling.main, [str(tmp_path), "--results", str(path)])
    assert unkept.exit_code == 2
    assert "--work FOLDER" in unkept.output


def test_costs_are_windows_times_seconds_times_cores() -> None:
    seconds = {"aoti": 0.5, "onnx-int8": 1.0, "torch-int8": 2.0, "eager": 4.5}
    assert corpus_cost.core_hours(292_000, 0.5) == pytest.approx(292_000 * 0.5 * 2 / 3600)
    first = corpus_cost.gate_minutes(seconds, "aoti", kept=False)
    assert first == pytest.approx((388 + 100) * 5 / 60)
    later = corpus_cost.gate_minutes(seconds, "aoti", kept=True)
    assert later == pytest.approx((388 * 0.5 + 100 * 5) / 60)
    lines = corpus_cost.corpora_table({"small": seconds}, 3600, 0.1).splitlines()
    assert lines[2] == "| LibriSpeech | small | 292 | 584 | 1,168 | 2,628 | $467 |"


def test_the_page_has_the_tables_of_the_figures(repository: Path) -> None:
    page = (repository / "docs" / "scale.md").read_text(encoding="utf-8")
    assert tables(json.loads(scaling.RESULTS.read_bytes())) in page
    told = corpus_cost.seconds_of(json.loads(corpus_cost.RESULTS.read_bytes()))
    assert corpus_cost.corpora_table(told, 1_000, 0.05) in page
    assert corpus_cost.gates_table(told) in page
