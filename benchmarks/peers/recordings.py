"""Measure recordings of ten minutes beside faster-whisper's two pipelines, and tell them.

One after another window, and in chunks of speech that a detector finds, eight at a time. The
checkpoint says the same tokens of every window, so all decode alike: greedily, with times where
windows follow each other, without fallbacks and without the text before. Environments, conversions
and rounds are those of benchmarks/peers/run.py.

    python -m benchmarks.random_checkpoints small checkpoints/says-64 --says 64
    python -m benchmarks.peers.recordings checkpoints/says-64 --work FOLDER
    python -m benchmarks.peers.recordings

It needs an idle machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.options import Asked, measuring
from benchmarks.peers.results import (
    cells,
    each_shape,
    entry_for,
    open_results,
    require_entries,
    save_results,
)
from benchmarks.peers.run import measure
from benchmarks.peers.systems import RECORDING_RIVALS
from exporter.checkpoint.checkpoint import open_checkpoint

RESULTS = Path(__file__).resolve().parents[1] / "results" / "recordings.json"
RECORDING_S = 600
LIMIT = 0.30  # of the seconds of faster-whisper's pipeline of the same kind


@click.command()
@measuring
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(RECORDING_RIVALS)), help="Default: all."
)
@click.option("--rounds", default=2, show_default=True, help="Fresh processes of each rival.")
def main(asked: Asked, results: Path, only: Sequence[str], rounds: int) -> None:
    """Measure CHECKPOINTS, then tell all that the file of figures holds."""
    told = open_results(results)
    rivals = {name: RECORDING_RIVALS[name] for name in only or RECORDING_RIVALS}
    for checkpoint in asked.checkpoints:
        opened = open_checkpoint(str(checkpoint))
        bench = replace(asked.bench(runs=1), window_s=RECORDING_S)
        entry = entry_for(told, opened, checkpoint.name, bench.setting)
        entry["rivals"] |= measure(bench, checkpoint, rivals, rounds, asked.again)
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))


def tables(results: dict[str, Any]) -> str:
    """Markdown: a table for each shape, and where it was measured."""
    return each_shape(results, title, table)


def title(entry: dict[str, Any]) -> str:
    """One setting in words."""
    return (
        f"{entry['shape']}, {entry['parameters'] / 1e6:.0f} M: a recording of "
        f"{RECORDING_S // 60} minutes, {entry['tokens']} tokens a window, greedy, "
        f"{entry['threads']} threads"
    )


def table(entry: dict[str, Any]) -> str:
    """A row for each rival, with its seconds over those of faster-whisper's pipeline."""
    head = ["", "median", "min to max", "of faster-whisper", "RTF", "memory"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, rival in RECORDING_RIVALS.items():
        if name not in entry["rivals"]:
            continue
        row = entry["rivals"][name]
        median, extremes, _, rtf, _, memory, *_ = cells(row)
        theirs = entry["rivals"].get(
            "faster-whisper-batched" if rival.options["chunked"] else "faster-whisper", {}
        )
        ratio = "-"
        if "seconds" in row and "seconds" in theirs:
            ratio = f"{row['seconds']['median'] / theirs['seconds']['median']:.2f}"
        lines.append([row["label"], median, extremes, ratio, rtf, memory])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
