"""Tell where each millisecond of a whole transcription with an aoti artifact goes.

For each checkpoint two artifacts are built, the usual one and one whose kernels are marked for
torch's profiler. In one process they transcribe the same window in turns: graphs, and what lies
around them, are timed in the usual one, the kernels within graphs in the marked one. How fast the
machine reads memory is measured in the same process, since a decoder is bound by that.

    python -m benchmarks.profiling.run checkpoints/tiny checkpoints/small --work FOLDER
    python -m benchmarks.profiling.run
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.options import Asked, measuring
from benchmarks.peers.results import entry_for, open_results, require_entries, save_results
from benchmarks.peers.rounds import (
    ATTEMPTS,
    DISTURBED,
    Bench,
    Failed,
    answered,
    convert,
    write_audio,
)
from benchmarks.peers.systems import OWN, RIVALS, Rival
from benchmarks.profiling.results import tables
from exporter.checkpoint.checkpoint import open_checkpoint

RESULTS = Path(__file__).resolve().parents[1] / "results" / "parts.json"
MARKED = Rival("aoti, marked", OWN, "parts_worker", "aoti-marked")


@click.command()
@measuring
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option("--runs", default=5, show_default=True, help="Timed transcriptions of each model.")
def main(asked: Asked, results: Path, runs: int) -> None:
    """Measure CHECKPOINTS, then tell all that the file of figures holds."""
    told = open_results(results)
    for checkpoint in asked.checkpoints:
        bench = asked.bench(runs)
        opened = open_checkpoint(str(checkpoint))
        entry = entry_for(told, opened, checkpoint.name, bench.setting, "parts")
        try:
            entry["parts"] = measure(bench, checkpoint, asked.again)
        except Failed as failure:
            msg = f"{checkpoint.name}: {failure}"
            raise click.ClickException(msg) from failure
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))


def measure(bench: Bench, checkpoint: Path, again: bool) -> dict[str, Any]:
    """Build both artifacts and time them; again where others took the machine meanwhile."""
    plain = convert(bench, checkpoint, RIVALS["aoti"], again=again)
    marked = convert(bench, checkpoint, MARKED, again=again)
    request = {
        "plain": plain["model"],
        "marked": marked["model"],
        "audio": str(write_audio(bench)),
        "tokens": bench.setting.tokens,
        "threads": bench.setting.threads,
        "runs": bench.runs,
    }
    command = [sys.executable, "-m", "benchmarks.profiling.worker", json.dumps(request)]
    answer: dict[str, Any] = {}
    for _ in range(ATTEMPTS):
        with bench.alone():
            answer = answered(bench, command)
        if answer["foreign_share"] <= DISTURBED:
            break
    return {"run": datetime.now(UTC).isoformat(timespec="seconds"), **answer}


if __name__ == "__main__":
    main()
