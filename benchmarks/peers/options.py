"""What every script has on its command line that measures as benchmarks/peers/run.py does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.rounds import Bench, Setting
from exporter.system.hardware import describe

_OPTIONS = (
    click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path, exists=True)),
    click.option("--work", type=click.Path(path_type=Path), help="Environments and models."),
    click.option("--tokens", default=64, show_default=True, help="Decoded in every window."),
    click.option("--threads", default=describe().cores, show_default="all cores"),
    click.option("--again", is_flag=True, help="Convert anew what an earlier run converted."),
    click.option(
        "--memory-limit",
        type=float,
        default=round(0.9 * describe().memory_bytes / 1e9, 1),
        show_default="90 % of the machine's",
        help="End a conversion that takes so many GB.",
    ),
    click.option(
        "--time-limit", default=1800.0, show_default=True, help="Seconds for any process."
    ),
    click.option(
        "--lock", type=click.Path(path_type=Path), help="A file to lock around every process."
    ),
)


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and within what limits."""

    checkpoints: tuple[Path, ...]
    again: bool
    tokens: int
    threads: int
    _work: Path | None
    _limits: tuple[int, float, Path | None]

    def bench(self, runs: int, *, batch: int = 1, beams: int = 1) -> Bench:
        """Where it is measured; refuses where no folder was named."""
        if self._work is None:
            msg = "--work FOLDER is where environments and converted models are kept"
            raise click.UsageError(msg)
        self._work.mkdir(parents=True, exist_ok=True)
        setting = Setting(self.tokens, self.threads, batch, beams)
        return Bench(self._work.resolve(), setting, runs, *self._limits)


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which is given them as its first argument, `Asked`."""

    @wraps(command)
    def called(
        checkpoints: tuple[Path, ...],
        work: Path | None,
        tokens: int,
        threads: int,
        again: bool,
        memory_limit: float,
        time_limit: float,
        lock: Path | None,
        **own: Any,
    ) -> None:
        limits = (round(memory_limit * 1e9), time_limit, lock)
        paths = tuple(path.resolve() for path in checkpoints)
        command(Asked(paths, again, tokens, threads, work, limits), **own)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called
