"""The commands about speed: what this machine offers, and how fast artifacts are on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, trust_option
from exporter.cli.output import formatting

if TYPE_CHECKING:
    from exporter.bench.run import Load, Row
    from exporter.cli.output.terminal import Terminal


def _counts(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Read `1,2` as numbers of threads, each once."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and int(part) for part in parts):
        msg = f"{text!r} is not a list of numbers like 1,2"
        raise click.BadParameter(msg)
    return tuple(dict.fromkeys(map(int, parts)))


@command
@click.option("--measure", is_flag=True, help="Also measure memory and products: seconds.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="To measure with; default: all cores.",
)
def machine(terminal: Terminal, measure: bool, threads: int | None, as_json: bool) -> None:
    """Tell what this machine offers, and what follows for each kind of artifact."""
    if threads and not measure:
        msg = "--threads goes with --measure"
        raise click.UsageError(msg)
    from exporter.targets import capabilities

    facts = capabilities.of_machine()
    measured = None
    if measure:
        from exporter.system import microbench

        with terminal.progress() as progress:
            measured = microbench.measure_fresh(threads, progress)
    if as_json:
        terminal.say_json(**facts, measured=measured)
        return
    for line in formatting.of_machine(facts):
        terminal.say(line)
    for line in formatting.of_rates(measured) if measured else ():
        terminal.say(line)


@command
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--audio",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Speech to transcribe; repeatable. Default: one window of noise.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="Decode exactly so many for each window of noise.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    metavar="N",
    help="Times that each artifact transcribes everything.",
)
@click.option(
    "--threads",
    callback=_counts,
    metavar="N,...",
    help="Each of these in turn, like 1,2; default: the artifact's own, or all cores.",
)
@click.option(
    "--batch", type=click.IntRange(min=1, max=1024), metavar="N", help="Recordings at a time."
)
@click.option(
    "--beams", type=click.IntRange(min=1, max=64), metavar="N", help="Instead of the recipe's."
)
@click.option("--original", is_flag=True, help="Also the checkpoint in float32, in transformers.")
@trust_option
def bench(
    terminal: Terminal,
    paths: Sequence[Path],
    threads: tuple[int, ...],
    original: bool,
    trust: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Time whole transcriptions by artifacts (or folders of them), side by side."""
    from exporter.bench import run as stand

    load = stand.Load(**given)
    with terminal.progress() as progress:
        rows = stand.bench(
            paths, load, threads=threads, original=original, trust=trust, progress=progress
        )
    if as_json:
        _say_json(terminal, load, rows)
    else:
        _say_rows(terminal, load, rows)
    errors = [row.error for row in rows if row.error]
    if errors:
        raise errors[0]


def _say_json(terminal: Terminal, load: Load, rows: list[Row]) -> None:
    from exporter.system.hardware import describe

    asked = {
        "audio": [str(path) for path in load.audio],
        "tokens": None if load.audio else load.tokens,
        "runs": load.runs,
    }
    terminal.say_json(load=asked, machine=describe().as_dict(), rows=[row.as_row() for row in rows])


def _say_rows(terminal: Terminal, load: Load, rows: list[Row]) -> None:
    found = [row.as_row() for row in rows]
    terminal.draw(formatting.of_bench(found))
    terminal.say(formatting.bench_load(load, found))
    for row in found:
        if row["error"] and len(rows) > 1:
            reason = row["error"]["message"].splitlines()[0]
            terminal.say(f"{row['name']}, threads {row['threads']}: {reason}")
