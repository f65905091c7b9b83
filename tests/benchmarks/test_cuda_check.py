"""The script for a machine with a card: its parts, limits and tables, where there is none."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuda import check, results

ABOUT = {"torch": "2.11.0+cu130", "transformers": "5.17.0", "card": "NVIDIA H100 80GB HBM3"}
OURS = {
    **{"shape": "large-v3", "system": "aoti", "build_s": 100.4, "ready_s": 3.0},
    **{
        "first_text_s": 8.24,
        "window_s": 0.1,
        "first_token_s": 0.036,
        "memory_bytes": 4_200_000_000,
    },
    **{"batch": {"8": 21.4, "32": 44.0}, "text": "as it is"},
}
EAGER = {
    **{"shape": "large-v3", "system": "eager", "ready_s": 5.0, "warm_up_s": 2.6, "window_s": 1.29},
    **{"memory_bytes": 3_700_000_000, "text": "as it is"},
}


def told(*rows: dict[str, Any]) -> str:
    """The tables of some rows."""
    return "\n".join(results.lines({"about": ABOUT, "tokens": 64, "rows": list(rows)}))


def test_a_table_tells_what_was_measured_and_where() -> None:
    text = told(OURS, EAGER)
    assert text.startswith("NVIDIA H100 80GB HBM3; PyTorch 2.11.0+cu130, transformers 5.17.0\n")
    assert (
        "| aoti, float16 | 100 s | 8.2 s | 100 ms | 1.00 ms | 21 of 8, 44 of 32 | 4.2 GB |" in text
    )
    assert "| transformers, eager, float16 | 3 s | 5.0 s | 1290 ms |  |  | 3.7 GB |" in text


def test_what_says_another_text_than_eager_is_named() -> None:
    assert "aoti, float16 (says another text)" in told({**OURS, "text": "as it isn't"}, EAGER)
    assert "another text" not in told(OURS)


def test_what_cannot_be_done_has_its_reason() -> None:
    row = {"shape": "large-v3", "system": "bitsandbytes", "failed": "no bitsandbytes"}
    assert "| transformers, int8 of bitsandbytes | cannot: no bitsandbytes |" in told(row)


def run_in(folder: Path, seconds: float) -> check.Run:
    """A run on the CPU that ends after so many seconds."""
    return check.Run(folder, "cpu", sys.executable, time.monotonic() + seconds)


def test_a_part_that_takes_too_long_keeps_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nprint('{\"window_s\": 1.5}', flush=True)\ntime.sleep(60)\n"
    )
    (tmp_path / "silent.py").write_text("import time\ntime.sleep(60)\n")
    run = run_in(tmp_path, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "ROOT", tmp_path)
        done = run.call(["slow"], 2)
        assert json.loads(done.stdout) == {"window_s": 1.5}
        with pytest.raises(check.Failed, match="not done after 1 s"):
            run.call(["silent"], 1)


def test_nothing_begins_where_no_time_is_left(tmp_path: Path) -> None:
    row = check.measured(run_in(tmp_path, 1), check.PARTS[0])
    assert row == {"failed": "no time was left"}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_baseline_is_timed_in_its_own_process(tiny_whisper: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path, 120)
    worker = ["benchmarks.cuda.workers.baselines", "eager", str(tiny_whisper), "cpu", "4"]
    done = run.call(worker, 120)
    *_, last = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert last["tokens"] >= 1
    assert last["window_s"] > 0
    assert last["batch"].keys() == {"8"}
