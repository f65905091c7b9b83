"""The terminal: results on standard output, messages on standard error, libraries silenced."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.system.progress import Progress

if TYPE_CHECKING:  # drawing is slow to import, and most calls draw nothing
    from rich import progress
    from rich.console import Console
    from rich.table import Table

_UNLIMITED = 400  # columns, if the output is no terminal


class Terminal:
    """The original standard streams, while those of libraries are redirected."""

    def __init__(self) -> None:
        _fill_gaps()
        self.debug = False
        self._bar: progress.Progress | None = None
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        self.err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        class Patient(Console):
            """Continues after a broken pipe, where rich would end the command."""

            def on_broken_pipe(self) -> None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

        return Patient(file=self.err, highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one result."""
        try:
            with self._bar_hidden():
                self.out.write(text + "\n")
                self.out.flush()
        except BrokenPipeError:  # the reader, like `head`, has stopped
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.out.fileno())
            raise SystemExit(0) from None

    def say_wrapped(self, text: str, indent: str) -> None:
        """Print one result; a terminal gets it wrapped, with `indent` from the second line on."""
        if self.out.isatty():
            columns = shutil.get_terminal_size().columns
            text = textwrap.fill(
                text,
                columns,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        self.say(text)

    @contextmanager
    def _bar_hidden(self) -> Iterator[None]:
        """Take a running progress bar off the terminal while a result is printed there."""
        if self._bar is None or not self.out.isatty():
            yield
            return
        self._bar.stop()
        yield
        self._bar.start()

    def tell(self, text: str) -> None:
        """Print a message to standard error, with control characters escaped."""
        lines = text.split("\n")
        self._console.print("\n".join(map(_harmless, lines)))

    def say_json(self, **document: Any) -> None:
        """Print the result as one JSON document."""
        self.say(json.dumps({"schema_version": 1, **document}, indent=2, ensure_ascii=False))

    def draw(self, table: Table) -> None:
        """Print a table as a result: turned on its side where the terminal is too narrow."""
        from rich.console import Console

        from exporter.cli.output.formatting import fitted

        width = None if self.out.isatty() else _UNLIMITED
        console = Console(file=self.out, width=width, highlight=False)
        with console.capture() as drawn:
            for each in fitted(table, console.width):
                console.print(each)
        self.say("\n".join(line.rstrip() for line in drawn.get().splitlines() if line.strip()))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Redirect the output of libraries, compilers and child processes to nowhere.

        File descriptors are redirected, because native code writes much of it. With `debug` it goes
        to standard error, so that standard output has results only.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(self.err.fileno() if self.debug else nowhere, 1)
        os.dup2(self.err.fileno() if self.debug else nowhere, 2)
        faulthandler.enable(file=self.err)
        handler = _attach_log(self)
        try:
            yield
        finally:
            logging.getLogger("exporter").removeHandler(handler)
            faulthandler.disable()
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in enumerate(saved, start=1):
                os.dup2(original, descriptor)
                os.close(original)
            os.close(nowhere)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield a function that shows the current step, the fraction done and the time left."""
        if not self.err.isatty():
            yield lambda _what, _fraction: None
            return
        from rich import progress

        columns = (
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left:"),
            progress.TimeRemainingColumn(),
        )
        # Few refreshes: the drawing thread must not disturb what is being timed.
        bar = progress.Progress(
            *columns, console=self._console, transient=True, refresh_per_second=4
        )
        with bar:
            task = bar.add_task("starting", total=None)
            reached = 0.0

            def tell(what: str, fraction: float | None) -> None:
                nonlocal reached
                if fraction is not None and fraction < reached:
                    bar.reset(task)  # a new step: the speed of the last one does not apply
                reached = fraction or 0.0
                total = None if fraction is None else 1.0
                bar.update(task, description=what, total=total, completed=reached)

            self._bar = bar
            try:
                yield tell
            finally:
                self._bar = None


def _fill_gaps() -> None:
    """Open standard streams that the caller closed, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout = sys.stdout or os.fdopen(os.dup(1), "w")
    sys.stderr = sys.stderr or os.fdopen(os.dup(2), "w")


class _Messages(logging.Handler):
    """Prints this package's log records as messages."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.tell(f"{record.levelname.lower()}: {record.getMessage()}")


def _attach_log(terminal: Terminal) -> logging.Handler:
    handler = _Messages(terminal)
    logger = logging.getLogger("exporter")
    logger.setLevel(logging.DEBUG if terminal.debug else logging.WARNING)
    logger.addHandler(handler)
    return handler


def _harmless(line: str) -> str:
    """Return a line with control characters escaped, so that it cannot rewrite the screen."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


def shown(path: Path) -> str:
    """Return a path relative to the working folder where that is shorter."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)
