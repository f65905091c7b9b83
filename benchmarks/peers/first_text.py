"""Measure what a process takes from its start to its first text, and what is installed for it.

The artifacts run where the base package alone is installed, without PyTorch, and faster-whisper in
an environment of its own. Each process opens a model and transcribes one short clip, cold.
Environments, conversions and rounds are those of benchmarks/peers/run.py.

    python -m benchmarks.random_checkpoints small checkpoints/small
    python -m benchmarks.peers.first_text checkpoints/small --work FOLDER
    python -m benchmarks.peers.first_text

It needs an idle machine. Files are read from the page cache, as after the first start of a day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.options import Asked, measuring
from benchmarks.peers.results import (
    each_shape,
    entry_for,
    open_results,
    require_entries,
    save_results,
)
from benchmarks.peers.rounds import size_bytes
from benchmarks.peers.run import measure
from benchmarks.peers.systems import FIRST_TEXT_RIVALS
from exporter.checkpoint.checkpoint import open_checkpoint

RESULTS = Path(__file__).resolve().parents[1] / "results" / "first_text.json"
CLIP_S, TOKENS = 5, 16
TOOLS = ("pip", "setuptools", "wheel")


@click.command()
@measuring
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(FIRST_TEXT_RIVALS)), help="Default: all."
)
@click.option("--rounds", default=7, show_default=True, help="Fresh processes of each rival.")
def main(asked: Asked, results: Path, only: Sequence[str], rounds: int) -> None:
    """Measure CHECKPOINTS, then tell all that the file of figures holds; --tokens is not used."""
    told = open_results(results)
    rivals = {name: FIRST_TEXT_RIVALS[name] for name in only or FIRST_TEXT_RIVALS}
    for checkpoint in asked.checkpoints:
        opened = open_checkpoint(str(checkpoint))
        bench = asked.bench(runs=1)
        bench = replace(bench, setting=replace(bench.setting, tokens=TOKENS), window_s=CLIP_S)
        entry = entry_for(told, opened, checkpoint.name, bench.setting)
        rows = measure(bench, checkpoint, rivals, rounds, asked.again)
        for name, row in rows.items():
            row["installed_bytes"] = installed_bytes(bench.python(rivals[name].environment))
        entry["rivals"] |= rows
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))


def installed_bytes(python: Path) -> int:
    """Return the bytes of an environment's packages, without those that install others."""
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    named = {each.metadata["Name"]: each for each in distributions(path=[str(packages)])}
    tools = [
        Path(file.locate()) for tool in TOOLS if tool in named for file in named[tool].files or ()
    ]
    return size_bytes(packages) - sum(path.stat().st_size for path in tools if path.exists())


def tables(results: dict[str, Any]) -> str:
    """Markdown: a table for each shape, and where it was measured."""
    return each_shape(results, title, table)


def title(entry: dict[str, Any]) -> str:
    """One setting in words."""
    return (
        f"{entry['shape']}, {entry['parameters'] / 1e6:.0f} M: a clip of {CLIP_S} s, "
        f"{entry['tokens']} tokens, {entry['threads']} threads"
    )


def table(entry: dict[str, Any]) -> str:
    """A row for each rival, in the order in which they are listed."""
    head = ["", "ready in", "first text after", "peak memory", "installed", "model"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    rows = (entry["rivals"][name] for name in FIRST_TEXT_RIVALS if name in entry["rivals"])
    lines += [[row["label"], *_cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: dict[str, Any]) -> Iterator[str]:
    if "failed" in row:
        yield from (f"cannot: {row['failed']}", "", "", "", "")
        return
    yield f"{row['ready_s']:.2f} s"
    yield f"{row['first_text_s']:.2f} s"
    for name in ("peak_rss_bytes", "installed_bytes", "size_bytes"):
        yield f"{row[name] / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
