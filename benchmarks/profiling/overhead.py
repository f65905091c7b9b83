"""Time what decoding costs outside the graphs: rules, search, and calls, for each token.

Seconds outside the calls of the graphs, on a machine that does nothing else, for an artifact of a
checkpoint that says many tokens of every window:

    python -m benchmarks.random_checkpoints small checkpoints/says-64 --says 64
    python -m benchmarks.profiling.overhead artifacts/says-64/onnx-int8
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from exporter.recognition import load
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.whisper.windows import Windows

CLIP = Path(__file__).resolve().parents[2] / "recipes/demo/clips/short-001.flac"
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"timestamps": False},
    "greedy, timestamps": {"timestamps": True},
    "five beams": {"timestamps": False, "num_beams": 5},
    "five beams, timestamps": {"timestamps": True, "num_beams": 5},
}


@dataclass
class Clock:
    """Seconds in a function, and its calls."""

    seconds: float = 0.0
    calls: int = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started
                self.calls += 1

        return timed


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--runs", default=5, show_default=True, help="Timed runs, after one that is not.")
def main(folder: Path, runs: int) -> None:
    """Print the milliseconds of a token outside the graphs of FOLDER, an artifact, as JSON."""
    recogniser = load.load(folder)
    told = {name: measured(recogniser, options, runs) for name, options in SEARCHES.items()}
    click.echo(json.dumps({"ms": told, "vocabulary": recogniser.opened.vocabulary}))


def measured(recogniser: Recogniser, options: dict[str, Any], runs: int) -> float:
    """Milliseconds of a step outside the graphs: of the fastest run."""
    each = [once(recogniser, options) for _ in range(1 + runs)]
    return round(1e3 * min(each[1:]), 4)


def once(recogniser: Recogniser, options: dict[str, Any]) -> float:
    """Seconds of a step outside the graphs, in one transcription."""
    functions = recogniser.opened.functions
    assert functions is not None, "an artifact of graphs"
    graphs, whole = {name: Clock() for name in functions}, Clock()
    before, decode = dict(functions), Windows.decode
    functions |= {name: clock.around(before[name]) for name, clock in graphs.items()}
    Windows.decode = whole.around(decode)  # type: ignore[method-assign]
    try:
        recogniser.transcribe([CLIP], **options)
    finally:
        Windows.decode = decode  # type: ignore[method-assign]
        functions |= before
    steps = max(graphs.values(), key=lambda clock: clock.calls)  # others run before decoding
    return (whole.seconds - steps.seconds) / steps.calls


if __name__ == "__main__":
    main()
