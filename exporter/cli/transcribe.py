"""The transcribe command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts, trust_option
from exporter.cli.output.terminal import Terminal
from exporter.errors import DataError, RecipeError
from exporter.system.accelerators import DEVICES
from exporter.system.files import make_folder, readable_name, write_atomic
from exporter.system.hardware import MAX_THREADS

if TYPE_CHECKING:
    from exporter.recognition.recordings import Recording
    from exporter.runtime.cues import Layout
    from exporter.runtime.transcript import Segment, Transcript

_COUNT = click.IntRange(1, 1000)
_FORMATS = ("text", "json", "jsonl", "srt", "vtt", "tsv")  # of `exporter.runtime.subtitles`
_SUFFIXES = {"text": ".txt"}


@command(
    "artifacts/whisper-demo-int8/onnx-int8 speech.flac",
    "ORG/NAME *.wav --language de --timestamps --json",
    "ORG/NAME recordings --format srt --output subtitles",
)
@click.argument("artifact", shell_complete=complete_artifacts)
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Language of the speech, like en.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Output text.")
@click.option("--timestamps", is_flag=True, help="Print start and end of each segment.")
@click.option("--vad/--no-vad", default=None, help="Hear only where somebody speaks.")
@click.option(
    "--long-form",
    type=click.Choice(["sequential", "chunked"]),
    help="How long recordings are decoded; chunked needs --vad.",
)
@click.option(
    "--batch-size", type=click.IntRange(1, 1024), metavar="N", help="Windows decoded together."
)
@click.option("--word-timestamps", is_flag=True, help="Times and probabilities of words, too.")
@click.option(
    "--format", "form", type=click.Choice(_FORMATS), default="text", help="Default: text."
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write a file for each recording; what is there is kept, and its recording skipped.",
)
@click.option("--max-line-width", metavar="N", type=_COUNT, help="Characters of a subtitle's line.")
@click.option("--max-line-count", metavar="N", type=_COUNT, help="Lines of a subtitle.")
@click.option("--max-words-per-line", metavar="N", type=_COUNT, help="Words of a subtitle's line.")
@click.option("--highlight-words", is_flag=True, help="Underline words as they are spoken.")
@click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), metavar="N", help="Default: all cores."
)
@click.option("--device", type=click.Choice(DEVICES), help="Default: what it was built for.")
@trust_option
def transcribe(
    terminal: Terminal,
    artifact: str,
    audio: Sequence[Path],
    timestamps: bool,
    word_timestamps: bool,
    form: str,
    output: Path | None,
    max_line_width: int | None,
    max_line_count: int | None,
    max_words_per_line: int | None,
    highlight_words: bool,
    threads: int | None,
    device: str | None,
    trust: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Print the text of audio files.

    ARTIFACT is a folder, or ORG/NAME[@REVISION] on the Hub. AUDIO are files, folders, of which all
    files that are named like audio are taken, and manifests (.jsonl). Options default to those of
    the recipe. Limits of lines, and highlighted words, are for srt and vtt with --word-timestamps.
    A file that cannot be read is told, costs no other file's text, and makes the exit code 3.
    """
    from exporter.artifact.lookup import require_audio
    from exporter.recognition.recordings import recordings_of
    from exporter.recognition.transcribe import Request, transcribe_files
    from exporter.runtime.cues import PLAIN, Layout
    from exporter.runtime.subtitles import TIMED

    layout = Layout(max_line_width, max_line_count, max_words_per_line, highlight_words)
    if layout != PLAIN:
        _require_words(form, word_timestamps=word_timestamps)
    require_audio(artifact, audio)
    recordings = recordings_of(audio)
    times = "words" if word_timestamps else "segments" if timestamps else None
    printed = _Printed(terminal, recordings, form, output, layout, times=times, as_json=as_json)
    changes = {key: value for key, value in how.items() if value is not None}
    if times or form in TIMED:
        changes["timestamps"] = True
    if word_timestamps:
        changes["word_timestamps"] = True
    paths = tuple(each.path for each in printed.left)
    request = Request(artifact, paths, changes, threads, trust, live=printed.is_live, device=device)
    try:
        if paths:
            with terminal.progress() as progress:
                transcribe_files(request, progress, printed.outcome, printed.segment)
    finally:
        printed.finish()  # also after an error that ended all
    printed.require_all()


class _Printed:
    """What a command prints or writes of each recording.

    Attributes:
        left: The recordings that have no result yet.
    """

    def __init__(
        self,
        terminal: Terminal,
        recordings: Sequence[Recording],
        form: str,
        output: Path | None,
        layout: Layout,
        *,
        times: str | None,
        as_json: bool,
    ) -> None:
        self._terminal, self._form, self._output = terminal, form, output
        self._layout, self._times = layout, times
        self._gathers = as_json or (form == "json" and output is None)
        self._several = len(recordings) > 1
        self._errors: list[DataError] = []
        self._rows: list[dict[str, Any]] = []
        self.left = self._unwritten(recordings)
        self._next = iter(self.left)

    @property
    def is_live(self) -> bool:
        """Whether segments are printed as they come."""
        plain = self._form == "text" and self._output is None and not self._gathers
        return plain and self._times is not None

    def segment(self, path: Path, segment: Segment) -> None:
        """Print a segment."""
        name = readable_name(str(path))
        for line in self._timed(segment):
            self._terminal.say(f"{name}: {line}" if self._several else line)

    def outcome(self, path: Path, outcome: Transcript | DataError) -> None:
        """Print or write a recording's transcript, or tell its error."""
        name, recording = readable_name(str(path)), next(self._next)
        if isinstance(outcome, DataError):
            self._errors.append(outcome)
            self._rows.append({"audio": name, "error": str(outcome)})
            if self._several:
                self._terminal.tell(f"error: {outcome}")
        elif self._output is not None:
            place = self._place(self._output, recording)
            make_folder(place.parent)
            text = "\n".join(self._lines(outcome, name)) + "\n"
            write_atomic(place, text.encode("utf-8", "backslashreplace"))
            self._rows.append({"audio": name, "output": readable_name(str(place))})
            if not self._gathers:
                self._terminal.say(str(place))
        elif self._gathers:
            from exporter.runtime.subtitles import as_data

            self._rows.append(as_data(outcome, name))
        elif not self.is_live:  # whose segments are printed
            named = self._several and self._form == "text"
            for line in self._lines(outcome, name):
                self._terminal.say(f"{name}: {line}" if named else line)

    def finish(self) -> None:
        """Print what was gathered."""
        if self._gathers and self._rows:
            self._terminal.say_json(transcripts=self._rows)

    def require_all(self) -> None:
        """Raise DataError if a recording could not be transcribed."""
        if self._errors:
            count = len(self.left)
            msg = f"{len(self._errors)} of {count} files could not be transcribed"
            raise DataError(msg) if self._several else self._errors[0]

    def _unwritten(self, recordings: Sequence[Recording]) -> list[Recording]:
        from exporter.recognition.recordings import require_distinct
        from exporter.runtime.subtitles import TIMED

        if self._output is None:
            if self._several and self._form in TIMED:
                msg = f"{self._form} is for one recording: give --output DIR, for a file of each"
                raise RecipeError(msg)
            return [*recordings]
        output = self._output
        require_distinct(recordings)
        left = [each for each in recordings if not os.path.lexists(self._place(output, each))]
        if there := len(recordings) - len(left):
            self._terminal.tell(f"{there} of {len(recordings)} are in {output} already")
        return left

    def _place(self, output: Path, recording: Recording) -> Path:
        suffix = _SUFFIXES.get(self._form, f".{self._form}")
        return output / f"{recording.result}{suffix}"

    def _lines(self, transcript: Transcript, name: str) -> Iterator[str]:
        from exporter.runtime.subtitles import lines_of

        if self._form != "text" or self._times is None:
            yield from lines_of(transcript, self._form, name, self._layout)
            return
        for segment in transcript.segments:
            yield from self._timed(segment)

    def _timed(self, segment: Segment) -> Iterator[str]:
        """Yield a line for a segment, or for each of its words."""
        parts = (segment.words or ()) if self._times == "words" else (segment,)
        for one in parts:
            yield f"[{one.start_s:.2f} - {one.end_s:.2f}] {one.text.strip()}"


def _require_words(form: str, *, word_timestamps: bool) -> None:
    """Refuse limits of lines without lines of words."""
    from exporter.runtime.subtitles import SUBTITLES

    if form not in SUBTITLES or not word_timestamps:
        msg = (
            "limits of lines, and highlighted words, are for subtitles of words: "
            "add --word-timestamps and --format srt or vtt"
        )
        raise RecipeError(msg)
