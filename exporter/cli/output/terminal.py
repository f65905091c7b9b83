"""The terminal: results on standard output, messages on standard error, libraries silenced."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from exporter.cli.output.progress import Line, Pace, Ticker
from exporter.cli.output.table import Table, wrapped
from exporter.system.progress import Progress
from exporter.system.text import harmless

_COLUMNS = 80  # of a terminal that does not tell its size
_REDRAWN_S, _TOLD_S = 0.5, 60.0
_JSON_ESCAPED = json.JSONEncoder(ensure_ascii=True).encode


class Terminal:
    """The original standard streams, while those of libraries are redirected.

    Whatever is printed goes through `harmless`, so that no text of a file, a model or a server can
    rewrite the screen or begin a line of its own.
    """

    def __init__(self) -> None:
        _fill_gaps()
        self.debug = False
        self._bar: Line | None = None
        self._pace = Pace()
        self._document: dict[str, Any] | None = None
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        self.err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")

    def say(self, *lines: str) -> None:
        """Print lines of a result."""
        self._write_out("".join(f"{harmless(line)}\n" for line in lines))

    def say_wrapped(self, *lines: str, indent: str = "  ") -> None:
        """Print lines of a result; a terminal gets them wrapped, `indent` before their rests."""
        columns = self._columns(self.out) if self.out.isatty() else None
        for line in map(harmless, lines):
            parts = wrapped(line, columns, indent, divide=False) if columns else [line]
            self._write_out("".join(f"{part}\n" for part in parts))

    def draw(self, table: Table) -> None:
        """Print a table as a result: on its side where the terminal is too narrow."""
        columns = self._columns(self.out) if self.out.isatty() else None
        self._write_out("".join(f"{line}\n" for line in table.lines(columns)))

    def say_json(self, **document: Any) -> None:
        """Hold the result, to be printed as JSON when the command ends: see `finish`."""
        self._document = document

    def finish(self, error: Mapping[str, Any] | None = None) -> None:
        """Print the result that is held, and an error, as one JSON document.

        It has the same values, in characters that are harmless.
        """
        if self._document is None and error is None:
            return
        document = {
            "schema_version": 1,
            **(self._document or {}),
            **({"error": error} if error else {}),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False)
        lines = (harmless(line, escape=_json_escape) for line in text.split("\n"))
        self._write_out("".join(f"{line}\n" for line in lines))

    def tell(self, text: str) -> None:
        """Print a message to standard error; lines after its first are indented.

        So a line end in a name or a value cannot begin a message of its own.
        """
        with self._bar_hidden():
            self._write_err("\n  ".join(map(harmless, text.split("\n"))) + "\n")

    def close(self) -> None:
        """Close the streams, of which everything has been written."""
        for stream in (self.out, self.err):
            with suppress(OSError):  # raised before, by the write that failed
                stream.close()

    def _write_out(self, text: str) -> None:
        try:
            with self._bar_hidden():
                self.out.write(text)
                self.out.flush()
        except BrokenPipeError:  # the reader, like `head`, has stopped
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.out.fileno())
            raise SystemExit(0) from None

    def _write_err(self, text: str) -> None:
        try:
            self.err.write(text)
            self.err.flush()
        except BrokenPipeError:  # nobody reads messages, but the work goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.err.fileno())

    def _bar_hidden(self) -> AbstractContextManager[None]:
        return self._bar.hidden() if self._bar else nullcontext()

    @staticmethod
    def _columns(stream: IO[str]) -> int:
        """Return the columns of the terminal behind a stream."""
        try:
            told = int(os.environ["COLUMNS"])
        except (KeyError, ValueError):
            told = 0
        with suppress(OSError):
            told = told or os.get_terminal_size(stream.fileno()).columns
        return told if told > 0 else _COLUMNS

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
        """Yield a function that takes the current step and the fraction done.

        A terminal shows one line, with the time elapsed and, where it is known, the time left. In
        a pipe or a log there is a message a minute.
        """
        self._pace = pace = Pace()
        if not self.err.isatty() or os.environ.get("TERM") == "dumb":
            with Ticker(lambda: self.tell(pace.sentence()), _TOLD_S):
                yield pace.tell
            return
        self._bar = bar = Line(self._write_err, lambda: self._columns(self.err), pace)
        try:
            with Ticker(bar.draw, _REDRAWN_S):
                yield bar.tell
        finally:
            with bar.hidden():
                self._bar = None

    def expect(self, seconds: float) -> None:
        """Show an estimate of the time left, which counts down."""
        self._pace.expect(seconds)


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


def _json_escape(character: str) -> str:
    return _JSON_ESCAPED(character)[1:-1]


def shown(path: Path) -> str:
    """Return a path relative to the working folder where that is shorter."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)
