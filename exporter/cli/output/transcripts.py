"""Print transcripts, or write them into files: one for each recording, or for a part of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from exporter.cli.output.terminal import Terminal
from exporter.errors import DataError, RecipeError
from exporter.recognition.parts import parts_of
from exporter.recognition.recordings import Recording, Recordings
from exporter.runtime.subtitles import TIMED, as_data, lines_of
from exporter.system.files import make_folder, readable_name, write_atomic

if TYPE_CHECKING:
    from exporter.runtime.cues import Layout
    from exporter.runtime.transcript import Segment, Transcript

_SUFFIXES = {"text": ".txt"}


@dataclass(frozen=True)
class Form:
    """How transcripts are shown.

    `times` are printed of "words" or "segments", or None. With `skips`, recordings that cannot be
    read are told and are no errors.
    """

    name: str
    layout: Layout
    times: str | None
    as_json: bool
    skips: bool


class Output(Protocol):
    """What becomes of transcripts.

    Attributes:
        left: The recordings that have no result yet.
        is_live: Whether segments are wanted as they come.
    """

    left: Recordings
    is_live: bool

    def segment(self, recording: Recording, segment: Segment) -> None:
        """Take a segment."""

    def outcome(self, recording: Recording, outcome: Transcript | DataError) -> None:
        """Take a recording's transcript, or its error."""

    def finish(self) -> None:
        """Print what was gathered, also after an error that ended all."""

    def require_all(self) -> None:
        """Raise DataError if a recording could not be transcribed."""


class _Outcomes:
    """Counts outcomes, and gathers the rows that `--json` prints."""

    def __init__(self, terminal: Terminal, form: Form) -> None:
        self._terminal, self._form = terminal, form
        self._gathers = form.as_json
        self._first_error: DataError | None = None
        self._errors = self._count = self._skipped = 0
        self._rows: list[dict[str, Any]] = []

    def _gather(self, row: dict[str, Any]) -> None:
        if self._gathers:
            self._rows.append(row)

    def _fail(self, recording: Recording, error: DataError, *, several: bool) -> None:
        self._gather({"audio": recording.name, "error": str(error)})
        if self._form.skips:
            self._skipped += 1
            self._terminal.tell(f"left out: {error}")
            return
        self._errors += 1
        self._first_error = self._first_error or error
        if several:
            self._terminal.tell(f"error: {error}")

    def _tell_skipped(self) -> None:
        if self._skipped:
            self._terminal.tell(f"{self._skipped} of {self._count} recordings were left out")


class Texts(_Outcomes):
    """Prints each recording's transcript, or writes a file for it."""

    def __init__(
        self,
        terminal: Terminal,
        recordings: Iterable[Recording],
        form: Form,
        output: Path | None,
        scratch: Callable[[], Path],
    ) -> None:
        """Find out which recordings have no result yet.

        Args:
            terminal: The terminal.
            recordings: The recordings.
            form: How transcripts are shown.
            output: A folder for files; None: transcripts are printed.
            scratch: Makes a folder for a long list.
        """
        super().__init__(terminal, form)
        self._output = output
        self._gathers = form.as_json or (form.name == "json" and output is None)
        self.left, there = Recordings(scratch), 0
        for each in recordings:
            if output is not None and os.path.lexists(self._place(output, each)):
                there += 1
            else:
                self.left.add(each)
        self._count = len(self.left)
        self._several = self._count + there > 1
        if there:
            terminal.tell(f"{there:,} of {self._count + there:,} are in {output} already")
        if output is None and self._several and form.name in TIMED:
            msg = f"{form.name} is for one recording: give --output DIR, for a file of each"
            raise RecipeError(msg)
        plain = form.name == "text" and output is None and not self._gathers
        self.is_live = plain and form.times is not None

    def segment(self, recording: Recording, segment: Segment) -> None:
        """Print a segment."""
        for line in self._timed(segment):
            self._terminal.say(f"{recording.name}: {line}" if self._several else line)

    def outcome(self, recording: Recording, outcome: Transcript | DataError) -> None:
        """Print or write a recording's transcript, or tell its error."""
        name = recording.name
        if isinstance(outcome, DataError):
            self._fail(recording, outcome, several=self._several)
        elif self._output is not None:
            place = self._place(self._output, recording)
            make_folder(place.parent)
            text = "\n".join(self._lines(outcome, name)) + "\n"
            write_atomic(place, text.encode("utf-8", "backslashreplace"))
            self._gather({"audio": name, "output": readable_name(str(place))})
            if not self._gathers:
                self._terminal.say(str(place))
        elif self._gathers:
            self._rows.append(as_data(outcome, name))
        elif not self.is_live:  # whose segments are printed
            named = self._several and self._form.name == "text"
            for line in self._lines(outcome, name):
                self._terminal.say(f"{name}: {line}" if named else line)

    def finish(self) -> None:
        """Print what was gathered."""
        if self._gathers and self._rows:
            self._terminal.say_json(transcripts=self._rows)
        self._tell_skipped()

    def require_all(self) -> None:
        """Raise DataError if a recording could not be transcribed."""
        if self._first_error is not None:
            msg = f"{self._errors} of {self._count} files could not be transcribed"
            raise DataError(msg) if self._several else self._first_error

    def _place(self, output: Path, recording: Recording) -> Path:
        suffix = _SUFFIXES.get(self._form.name, f".{self._form.name}")
        return output / f"{recording.result}{suffix}"

    def _lines(self, transcript: Transcript, name: str) -> Iterator[str]:
        if self._form.name != "text" or self._form.times is None:
            yield from lines_of(transcript, self._form.name, name, self._form.layout)
            return
        for segment in transcript.segments:
            yield from self._timed(segment)

    def _timed(self, segment: Segment) -> Iterator[str]:
        """Yield a line for a segment, or for each of its words."""
        parts = (segment.words or ()) if self._form.times == "words" else (segment,)
        for one in parts:
            yield f"[{one.start_s:.2f} - {one.end_s:.2f}] {one.text.strip()}"


class PartFiles(_Outcomes):
    """Writes the transcripts of each part of the recordings into a file of JSON lines."""

    is_live = False

    def __init__(
        self,
        terminal: Terminal,
        recordings: Iterable[Recording],
        form: Form,
        output: Path,
        stamp: object,
        scratch: Callable[[], Path],
    ) -> None:
        """Find out which parts are not there yet.

        Args:
            terminal: The terminal.
            recordings: The recordings.
            form: How transcripts are shown.
            output: The folder of the parts' files.
            stamp: What decides the transcripts besides the recordings.
            scratch: Makes a folder for a long list.
        """
        super().__init__(terminal, form)
        self._output = output
        self.left = Recordings(scratch)
        self._parts: list[tuple[str, int]] = []  # the names of those left, and their recordings
        self._lines: list[str] = []
        there = 0
        for part in parts_of(recordings, stamp):
            if (output / part.name).exists():
                there += 1
                continue
            self._parts.append((part.name, len(part.recordings)))
            for each in part.recordings:
                self.left.add(each)
        self._parts.reverse()
        self._count = len(self.left)
        if there:
            terminal.tell(
                f"{there:,} of {there + len(self._parts):,} parts are in {output} already"
            )

    def segment(self, recording: Recording, segment: Segment) -> None:
        """Ignore a segment: there is a line for each recording."""

    def outcome(self, recording: Recording, outcome: Transcript | DataError) -> None:
        """Add a line, and write the part if it is the last one.

        Raises:
            DataError: The recording could not be transcribed, and none is to be left out.
        """
        known: dict[str, Any] = {"id": recording.clip.id}
        if isinstance(outcome, DataError):
            if not self._form.skips:
                raise outcome
            self._fail(recording, outcome, several=True)
            row = {**known, "audio": recording.name, "error": str(outcome)}
        else:
            row = {**known, **as_data(outcome, recording.name)}
        self._lines.append(json.dumps(row, ensure_ascii=False))
        name, count = self._parts[-1]
        if len(self._lines) == count:
            make_folder(self._output)
            text = "\n".join(self._lines) + "\n"
            write_atomic(self._output / name, text.encode("utf-8", "backslashreplace"))
            self._lines.clear()
            self._parts.pop()
            self._gather({"output": readable_name(str(self._output / name)), "recordings": count})
            if not self._form.as_json:
                self._terminal.say(str(self._output / name))

    def finish(self) -> None:
        """Print what was written."""
        if self._form.as_json and self._rows:
            self._terminal.say_json(parts=self._rows)
        self._tell_skipped()

    def require_all(self) -> None:
        """Do nothing: the first recording that could not be transcribed ended all."""
