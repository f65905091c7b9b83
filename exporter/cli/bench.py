"""The bench command: time artifacts on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import artifacts_argument, command, device_option, trust_option
from exporter.cli.output.formatting import digits, moment, table
from exporter.cli.output.table import Table
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.bench.run import Row, Workload
    from exporter.cli.output.terminal import Terminal
    from exporter.system.accelerators import Card, Device


def _counts(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Read `1,2` as numbers of threads, each once."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) for part in parts):
        msg = f"{text!r} is not a list of numbers like 1,2"
        raise click.BadParameter(msg)
    return tuple(dict.fromkeys(map(int, parts)))


@command(
    "artifacts/whisper-demo-int8",
    "artifacts/a/onnx-int8 --audio speech.flac --threads 1,2",
    extra="build",
)
@artifacts_argument
@click.option(
    "--audio",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Audio to transcribe; repeatable. Default: one window of noise.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="Tokens decoded for each window of noise.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    metavar="N",
    help="Timed transcriptions of each artifact.",
)
@click.option(
    "--threads",
    callback=_counts,
    metavar="N,...",
    help="Thread counts to time, like 1,2; default: as compiled, or all cores.",
)
@click.option(
    "--batch", type=click.IntRange(min=1, max=1024), metavar="N", help="Recordings in a batch."
)
@click.option(
    "--beams", type=click.IntRange(min=1, max=64), metavar="N", help="Beams; default: the recipe's."
)
@click.option("--original", is_flag=True, help="Also time the checkpoint in float32.")
@device_option
@trust_option
def bench(
    terminal: Terminal,
    paths: Sequence[Path],
    threads: tuple[int, ...],
    original: bool,
    device: Device | None,
    trust: bool,
    as_json: bool,
    **workload: Any,
) -> None:
    """Time whole transcriptions of artifacts, side by side.

    PATHS are artifacts, or folders of them.
    """
    from exporter.bench import run as stand

    load = stand.Workload(**workload)
    with terminal.progress() as progress:
        rows = stand.bench(
            paths,
            load,
            threads=threads,
            original=original,
            device=device,
            trust=trust,
            progress=progress,
        )
    if as_json:
        _say_json(terminal, load, rows)
    else:
        _say_rows(terminal, load, rows)
    errors = [row.error for row in rows if row.error]
    if errors:
        raise errors[0]


def _say_json(terminal: Terminal, load: Workload, rows: list[Row]) -> None:
    from exporter.system.hardware import describe

    work = {
        "audio": [str(path) for path in load.audio],
        "tokens": None if load.audio else load.tokens,
        "runs": load.runs,
    }
    terminal.say_json(
        load=work,
        machine=describe().as_dict(),
        cards=[asdict(card) for card in _cards(rows)],
        rows=[row.as_row() for row in rows],
    )


def _cards(rows: Sequence[Row]) -> Sequence[Card]:
    """Return the card that artifacts were timed on, if one was; of several the first one."""
    from exporter.system.accelerators import cards

    return cards()[:1] if any(row.device == "cuda" and row.rounds for row in rows) else ()


def _say_rows(terminal: Terminal, load: Workload, rows: list[Row]) -> None:
    data = [row.as_row() for row in rows]
    terminal.draw(of_bench(data))
    terminal.say_wrapped(bench_load(load, data), *(f"On {card}." for card in _cards(rows)))
    for row in data:
        if row["error"] and len(rows) > 1:
            reason = row["error"]["message"].splitlines()[0]
            terminal.say_wrapped(f"{row['name']}, threads {row['threads']}: {reason}")


def of_bench(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row per artifact and number of threads; "-" is unknown.

    Where one runs on a card, there are columns of its first call and of the card's memory.
    """
    on_card = any(row["device"] != "cpu" for row in rows)
    latency = ("p50", "p90", "p99", "min", "max")
    rates = ("tokens/s", "RTF (x real time)", "encoder", "token", "outside")
    opening = ("load", "first", "memory", "GPU memory") if on_card else ("load", "memory")
    columns = ("threads", *latency, *rates, *opening, "size")
    drawn = table("artifact", columns)
    for row in rows:
        cells = ["-"] * (len(columns) - 2) if row["error"] else _timed(row, on_card=on_card)
        drawn.add(row["name"], str(row["threads"]), *cells, shown_bytes(row["size_bytes"]))
    return drawn


def _timed(row: Mapping[str, Any], *, on_card: bool) -> Iterator[str]:
    """Yield a measured row's cells from the first latency on."""
    yield from map(moment, row["latency_s"].values())
    yield digits(row["tokens_per_s"])
    yield f"{row['rtf']:.4f} ({digits(row['times_real_time'])})"
    for name in ("encoder_window_s", "decoder_token_s"):
        yield "-" if row[name] is None else moment(row[name])
    yield "-" if row["outside_share"] is None else f"{row['outside_share']:.0%}"
    yield moment(row["load_s"])
    if on_card:
        yield "-" if row["first_s"] is None else moment(row["first_s"])
    yield shown_bytes(row["peak_rss_bytes"])
    if on_card:
        memory = row["device_memory_bytes"]
        yield "-" if memory is None else shown_bytes(memory)


def bench_load(load: Workload, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the line about the workload, below a table of timings."""
    first = next(row for row in rows if not row["error"])
    beams, batch = (
        " or ".join(map(str, sorted({row["decoding"][name] for row in rows})))
        for name in ("num_beams", "batch_size")
    )
    if load.audio:
        what = ", ".join(path.name for path in load.audio)
    else:
        length, tokens = (
            first[of] / first["decoding"]["batch_size"] for of in ("audio_s", "tokens")
        )
        what = f"a window of {length:.0f} s of noise and {tokens:.0f} tokens"
    rounds = len(first["rounds"])
    how = f"beams {beams}, batch {batch}, {load.runs} runs, fresh processes in {rounds} rounds"
    return f"Samples in, text out: {what}; {how}."
