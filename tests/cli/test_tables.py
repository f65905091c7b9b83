"""Tables at every width: each number and verdict is there whole, in a line that fits."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.bench.run import Row
from exporter.bench.timing import GraphTime, Profile
from exporter.build.estimate import Prediction
from exporter.cli.bench import of_bench
from exporter.cli.output.formatting import digits, moment, of_plan, of_quantization
from exporter.cli.output.table import Column, Table, wrapped
from exporter.cli.validate import of_reports
from exporter.recipe import Decoding
from exporter.system.progress import shown_bytes
from exporter.system.text import width_of
from tests.support import passing
from tests.support.judging import SENTENCE, case
from tests.support.reports import made
from tests.support.rounds import round_

WIDTHS = (40, 60, 80, 100, 120, None)
KINDS = ("onnx-int8", "torch-int8", "aoti", "onnx-int8-with-a-long-name-of-its-own")
WHY = "no: 12.3 GB of memory needed, 8 GB available: close other programs"


def reports(count: int) -> Table:
    bad = made(case(hear=lambda index: SENTENCE if index % 3 else "nothing at all"))
    judged = [made(case()), bad, bad, bad][:count]
    return of_reports([Path(f"artifacts/demo/{kind}") for kind in KINDS[:count]], judged)


def timings(count: int) -> Table:
    graphs = {
        "encoder": GraphTime(calls=2, seconds=0.3, median_s=0.15),
        "decoder": GraphTime(calls=16, seconds=0.5, median_s=0.031),
    }
    timed = round_((1.234, 123.4), profile=Profile(seconds=1.0, graphs=graphs), load_s=12.3)
    common = {"model": Path(), "original": False, "threads": 2, "size_bytes": 1_234_567_890}
    names = [f"whisper-large-v3-turbo/{kind}" for kind in KINDS[:count]]
    rows = [
        Row(name=name, decoding=Decoding(), family="whisper", rounds=[timed], **common)
        for name in names
    ]
    return of_bench([row.as_row() for row in rows])


def plan(count: int) -> Table:
    cost = Prediction({"weights": 3_210_000_000}, 4_560_000_000, 5_670_000_000, 0, 1234.0, 4.0)
    common = {**cost.as_row(), "action": "build", "kind": "aoti", "fits": False, "why_not": WHY}
    return of_plan([{"artifact": f"artifacts/demo/{kind}", **common} for kind in KINDS[:count]])


def quantization(count: int) -> Table:
    figures = {"modules": 123, "bytes_before": 1_234_567, "bytes_after": 345_678}
    names = ("", "model.decoder.layers.*.encoder_attn.out_proj", "*.fc1", "model.encoder.conv*")
    label = "dynamic-int8, bits 7, per_channel true"
    return of_quantization([{"pattern": n, "label": label, **figures} for n in names[:count]])


TABLES = {"validate": reports, "bench": timings, "plan": plan, "quantization": quantization}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_no_number_and_no_verdict_is_shortened(name: str, width: int | None, count: int) -> None:
    table = TABLES[name](count)
    lines = table.lines(width)
    text = "\n".join(lines)
    assert "…" not in text
    if width:
        assert max(map(width_of, lines)) <= width
    else:
        assert len(lines) == 2 + count
    for row in table.rows:
        for cell, column in zip(row[1:], table.columns[1:], strict=True):
            if column.least is None:
                assert re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", text), (cell, text)
    flowing = "".join(text.split())
    for row in table.rows:
        for cell, column in zip(row, table.columns, strict=True):
            if width == 40 and column.least:  # a block of its own: nothing is beside the text
                assert set(cell.split()) & set(text.split()) or cell[:8] in flowing


@pytest.mark.parametrize("width", WIDTHS)
def test_each_artifact_is_named_once(width: int | None) -> None:
    text = "\n".join(reports(3).lines(width))
    for kind in KINDS[:3]:
        assert len(re.findall(rf"\b{kind}\b", text)) == 1


def test_verdict_and_word_error_rate_come_first() -> None:
    assert [column.title for column in reports(1).columns[:4]] == [
        *("artifact", "verdict", "WER", "original WER"),
    ]
    titles = [line.split("  ")[0] for line in reports(2).lines(40)]
    assert titles[2:4] == ["verdict", "WER"]


def test_a_cell_cannot_draw_another_row() -> None:
    table = Table([Column("name"), Column("verdict", least=8)])
    table.add("out[v1] :cat: [bold]x[/]", "failed\nforged  passed\x1b[2K")
    assert table.lines(None)[2] == "out[v1] :cat: [bold]x[/]  failed\\nforged  passed\\x1b[2K"


def _on_a_terminal(columns: int, *arguments: str) -> str:
    leader, follower = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "exporter", *arguments]
    with subprocess.Popen(command, stdout=follower, env={**environment, "TERM": "xterm"}):
        os.close(follower)
        shown = b""
        with suppress(OSError):  # how a terminal ends
            while piece := os.read(leader, 4096):
                shown += piece
    os.close(leader)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("command", [("list",), ("inspect", "artifacts/speech/onnx-int8")])
def test_lines_are_wrapped_at_the_terminals_own_width(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    passing.make(tmp_path / "artifacts" / "speech" / "onnx-int8")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/a-recipe-that-cannot-be-used.yaml").write_text("name: x\n")
    call = [sys.executable, "-m", "exporter", *command]
    piped = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert max(map(len, piped.splitlines())) > 80
    shown = _on_a_terminal(60, *command)
    assert shown.split() == piped.split()
    assert all(len(line) <= 60 or len(line.split()) <= 2 for line in shown.splitlines())


def test_texts_of_any_script_are_wrapped_by_their_columns() -> None:
    assert wrapped("日本語日本語", 6) == ["日本語", "日本語"]
    assert wrapped("e\u0301e\u0301e\u0301 a", 3) == ["e\u0301e\u0301e\u0301", "a"]
    assert wrapped("  a bc def", 6, "    ", divide=False) == ["  a bc", "    def"]
    assert wrapped("/a/long/path b", 4, divide=False) == ["/a/long/path", "b"]
    assert wrapped("", 4) == [""]
    assert wrapped("in 12.3 GB of memory", 9) == ["in", "12.3 GB", "of memory"]


def test_large_numbers_are_written_out() -> None:
    assert [moment(s) for s in (0.00123, 1.234, 12.34, 1234.5)] == [
        *("1.23 ms", "1.23 s", "12.3 s", "1234 s"),
    ]
    assert digits(123456) == "123456"
    assert [shown_bytes(n) for n in (0, 999, 1e3, 1.5e9, 2.5e12)] == [
        *("0 B", "999 B", "1 kB", "1.5 GB", "2.5 TB"),
    ]
