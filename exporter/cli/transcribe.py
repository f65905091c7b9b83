"""The transcribe command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts, trust_option
from exporter.cli.output.terminal import Terminal
from exporter.errors import RecipeError
from exporter.system.accelerators import DEVICES
from exporter.system.hardware import MAX_THREADS
from exporter.system.tempdirs import scratch

if TYPE_CHECKING:
    from exporter.cli.output.transcripts import Form, PartFiles, Texts

_COUNT = click.IntRange(1, 1000)
_FORMATS = ("text", "json", "jsonl", "srt", "vtt", "tsv")  # of `exporter.runtime.subtitles`


@command(
    "artifacts/whisper-demo-int8/onnx-int8 speech.flac",
    "ORG/NAME *.wav --language de --timestamps --json",
    "ORG/NAME recordings --format srt --output subtitles",
    "ORG/NAME corpus/wav.scp --parts --output transcripts",
)
@click.argument("artifact", shell_complete=complete_artifacts)
@click.argument("audio", nargs=-1, required=True, type=click.Path())
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
@click.option(
    "--parts",
    is_flag=True,
    help="Write JSON lines of about 20 minutes of audio a file, for corpora of short clips.",
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Tell recordings that cannot be read, and do not exit with 3 for them.",
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
    audio: Sequence[str],
    timestamps: bool,
    word_timestamps: bool,
    form: str,
    output: Path | None,
    parts: bool,
    skip_unreadable: bool,
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
    files that are named like audio are taken, and data as for validation: manifests, Kaldi's
    wav.scp, .tar, .parquet, their folders, and s3:// or gs:// addresses of the last two. Options
    default to those of the recipe. Limits of lines, and highlighted words, are for srt and vtt with
    --word-timestamps. A file that cannot be read is told, costs no other file's text, and makes the
    exit code 3; with --parts, it ends the command. A command that was killed goes on if it is
    repeated with the same --output.
    """
    from exporter.artifact import store
    from exporter.artifact.lookup import require_audio
    from exporter.cli.output.transcripts import Form
    from exporter.recognition.load import locate
    from exporter.recognition.transcribe import Request, transcribe_files
    from exporter.runtime.cues import PLAIN, Layout
    from exporter.runtime.subtitles import TIMED

    layout = Layout(max_line_width, max_line_count, max_words_per_line, highlight_words)
    if layout != PLAIN:
        _require_words(form, word_timestamps=word_timestamps)
    require_audio(artifact, [Path(each) for each in audio])
    times = "words" if word_timestamps else "segments" if timestamps else None
    changes = {key: value for key, value in how.items() if value is not None}
    if times or form in TIMED:
        changes["timestamps"] = True
    if word_timestamps:
        changes["word_timestamps"] = True
    shape = Form(form, layout, times, as_json, skip_unreadable)
    with ExitStack() as stack:
        written: PartFiles | Texts
        if parts:
            if output is None or form not in ("text", "jsonl"):
                msg = "--parts writes JSON lines: give --output DIR, and leave --format out"
                raise RecipeError(msg)
            with terminal.progress() as progress:
                folder = locate(artifact, progress, trust=trust)
            stamp = [store.read_sealed(folder).digest, changes]
            written = _part_files(terminal, audio, shape, output, stamp, stack)
        else:
            written = _texts(terminal, audio, shape, output, stack)
        live = written.is_live
        request = Request(artifact, written.left, changes, threads, trust, live, device)
        try:
            if len(written.left):
                with terminal.progress() as progress:
                    transcribe_files(request, progress, written.outcome, written.segment)
        finally:
            written.finish()  # also after an error that ended all
        written.require_all()


def _texts(
    terminal: Terminal, audio: Sequence[str], form: Form, output: Path | None, stack: ExitStack
) -> Texts:
    """Return what prints texts, or writes a file for each recording."""
    from exporter.cli.output.transcripts import Texts
    from exporter.recognition.recordings import distinct, recordings_of

    recordings = recordings_of(audio)
    if output is not None:
        recordings = distinct(recordings, audio)
    return Texts(terminal, recordings, form, output, lambda: stack.enter_context(scratch()))


def _part_files(
    terminal: Terminal,
    audio: Sequence[str],
    form: Form,
    output: Path,
    stamp: object,
    stack: ExitStack,
) -> PartFiles:
    """Return what writes a file for each part of the recordings."""
    from exporter.cli.output.transcripts import PartFiles
    from exporter.recognition.recordings import recordings_of

    recordings = recordings_of(audio)
    return PartFiles(
        terminal, recordings, form, output, stamp, lambda: stack.enter_context(scratch())
    )


def _require_words(form: str, *, word_timestamps: bool) -> None:
    """Refuse limits of lines without lines of words."""
    from exporter.runtime.subtitles import SUBTITLES

    if form not in SUBTITLES or not word_timestamps:
        msg = (
            "limits of lines, and highlighted words, are for subtitles of words: "
            "add --word-timestamps and --format srt or vtt"
        )
        raise RecipeError(msg)
