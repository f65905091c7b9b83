"""Measure CTC checkpoints in this project's artifacts and beside other runtimes, and tell them.

Environments, conversions and rounds are those of benchmarks/peers/run.py: fresh processes in
interleaved rounds, samples in, text out, the same clips of speech and threads for all. Each must
compute as many frames as the checkpoint's convolutions make of a clip.

    python -m benchmarks.random_ctc base checkpoints/wav2vec2-base
    python -m benchmarks.peers.ctc checkpoints/wav2vec2-base --work FOLDER
    python -m benchmarks.peers.ctc

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
from benchmarks.peers.rounds import RATE
from benchmarks.peers.run import measure
from benchmarks.peers.systems import CTC_RIVALS
from exporter.checkpoint.checkpoint import open_checkpoint

RESULTS = Path(__file__).resolve().parents[1] / "results" / "ctc_peers.json"
CLIP_S = 10


@click.command()
@measuring
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option("--only", multiple=True, type=click.Choice(list(CTC_RIVALS)), help="Default: all.")
@click.option("--rounds", default=5, show_default=True, help="Fresh processes of each rival.")
@click.option("--runs", default=3, show_default=True, help="Timed transcriptions in each.")
def main(asked: Asked, results: Path, only: Sequence[str], rounds: int, runs: int) -> None:
    """Measure CHECKPOINTS, then tell all that the file of figures holds; --tokens is not used."""
    told = open_results(results)
    rivals = {name: CTC_RIVALS[name] for name in only or CTC_RIVALS}
    for checkpoint in asked.checkpoints:
        opened = open_checkpoint(str(checkpoint))
        bench = asked.bench(runs)
        setting = replace(bench.setting, tokens=frames(opened.config, CLIP_S * RATE))
        bench = replace(bench, setting=setting, window_s=CLIP_S)
        entry = entry_for(told, opened, checkpoint.name, setting)
        entry["rivals"] |= measure(bench, checkpoint, rivals, rounds, asked.again)
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))


def frames(config: dict[str, Any], samples: int) -> int:
    """Return how many frames the convolutions of a config make of so many samples."""
    for kernel, stride in zip(config["conv_kernel"], config["conv_stride"], strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def tables(results: dict[str, Any]) -> str:
    """Markdown: a table for each shape, and where it was measured."""
    return each_shape(results, title, table)


def title(entry: dict[str, Any]) -> str:
    """One setting in words."""
    return (
        f"{entry['shape']}, {entry['parameters'] / 1e6:.0f} M: a clip of {CLIP_S} s, greedy, "
        f"{entry['threads']} threads"
    )


def table(entry: dict[str, Any]) -> str:
    """A row for each rival, in the order in which they are listed."""
    head = ["", "median", "min to max", "RTF", "ready in", "memory", "size", "converted in"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name in CTC_RIVALS:
        if name in entry["rivals"]:
            row = entry["rivals"][name]
            median, extremes, _, *others = cells(row)
            lines.append([row["label"], median, extremes, *others])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
