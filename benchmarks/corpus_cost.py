"""Estimate what hearing a corpus costs, and what one gate does, from the figures of docs/speed.md.

A Whisper model hears windows of 30 s, so a short clip costs as much as a long one:

    core-hours = windows x seconds a window x threads / 3600

Seconds are those of benchmarks/results/peers.json: greedy, 64 tokens, two threads, one process on
the machine. Several processes on one machine are slower each: see benchmarks/scaling.py.

    python -m benchmarks.corpus_cost
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from benchmarks.peers.run import RESULTS

# Windows of an hour of audio. LibriSpeech's clips last 12.3 s on average, those of Common Voice
# (English, 26.0: 2,583,051 clips, 3,781 h) 5.3 s; a long recording is cut into windows of 30 s.
CORPORA = {"LibriSpeech": 292, "Common Voice": 683, "long recordings": 120}
KINDS = {
    "aoti": "aoti",
    "onnx-int8": "onnx-int8",
    "torch-int8": "torch-int8",
    "eager": "float32 original",
}
ORIGINAL = "eager"
SHAPES = ("tiny", "small", "large-v3-turbo", "large-v3")
SETTING = {"tokens": 64, "threads": 2, "batch": 1, "beams": 1}
HEARD = (
    388  # clips that an artifact as good as its original needs, docs/validation.md's highest mean
)
TIMED = 100  # clips of the second pass at most, which measures latency
HOUR_S, MINUTE_S = 3600, 60

Seconds = Mapping[str, float]


def seconds_of(results: Mapping[str, Any]) -> dict[str, Seconds]:
    """Return the median seconds of a window, by shape and kind."""
    return {
        entry["shape"]: {kind: entry["rivals"][kind]["seconds"]["median"] for kind in KINDS}
        for entry in results["entries"]
        if entry["shape"] in SHAPES and SETTING.items() <= entry.items()
    }


def core_hours(windows: float, seconds: float) -> float:
    """Return the cores' time of so many windows."""
    return windows * seconds * SETTING["threads"] / HOUR_S


def gate_minutes(seconds: Seconds, kind: str, *, kept: bool) -> float:
    """Return the minutes of one gate on two cores: hearing clips, then timing some of them.

    Args:
        seconds: Seconds of a window, by kind.
        kind: The artifact's kind.
        kept: Whether the original's transcripts are kept from an earlier run.
    """
    both = seconds[kind] + seconds[ORIGINAL]
    return (HEARD * (seconds[kind] if kept else both) + TIMED * both) / MINUTE_S


def corpora_table(told: Mapping[str, Seconds], hours: int, price: float) -> str:
    """Markdown: core-hours of each kind, and the price of all of them together."""
    head = ["", "", *KINDS.values(), f"all four, at ${price:g} a core-hour"]
    rows = (
        [corpus, shape, *_costs(seconds, hours * windows, price)]
        for corpus, windows in CORPORA.items()
        for shape, seconds in told.items()
    )
    return _markdown([head, ["---", "---", *["---:"] * (len(head) - 2)], *rows])


def _costs(seconds: Seconds, windows: float, price: float) -> Iterator[str]:
    costs = [core_hours(windows, seconds[kind]) for kind in KINDS]
    yield from (f"{cost:,.0f}" for cost in costs)
    yield f"${price * sum(costs):,.0f}"


def gates_table(told: Mapping[str, Seconds]) -> str:
    """Markdown: minutes of a first gate, and of one that finds the original's transcripts."""
    kinds = [kind for kind in KINDS if kind != ORIGINAL]
    head = ["", *(f"{KINDS[kind]}: first, later" for kind in kinds)]
    rows = ([shape, *(_both(seconds, kind) for kind in kinds)] for shape, seconds in told.items())
    return _markdown([head, ["---", *["---:"] * len(kinds)], *rows])


def _both(seconds: Seconds, kind: str) -> str:
    first, later = (gate_minutes(seconds, kind, kept=kept) for kept in (False, True))
    return f"{first:,.0f}, {later:,.0f}"


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option("--hours", default=1_000, show_default=True, help="Hours of audio.")
@click.option("--price", default=0.05, show_default=True, help="Of a core-hour, in dollars.")
def main(hours: int, price: float) -> None:
    """Print core-hours of corpora, and minutes of gates, by shape and kind."""
    told = seconds_of(json.loads(RESULTS.read_bytes()))
    click.echo(f"{corpora_table(told, hours, price)}\n\n{gates_table(told)}")


if __name__ == "__main__":
    main()
