"""The transcribe command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts, trust_option
from exporter.cli.output.terminal import Terminal

if TYPE_CHECKING:
    from exporter.families.transcript import Transcript


@command(
    "artifacts/whisper-demo-int8/onnx-int8 speech.flac",
    "ORG/NAME *.wav --language de --timestamps --json",
)
@click.argument("artifact", shell_complete=complete_artifacts)
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Language of the speech, like en.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Output text.")
@click.option("--timestamps", is_flag=True, help="Print start and end of each segment.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: all cores.")
@trust_option
def transcribe(
    terminal: Terminal,
    artifact: str,
    audio: Sequence[Path],
    timestamps: bool,
    threads: int | None,
    trust: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Print the text of audio files.

    ARTIFACT is a folder, or ORG/NAME[@REVISION] on the Hub. Language and task default to the
    recipe's.
    """
    from exporter.runtime.transcribe import Request, transcribe_fresh

    changes = {key: value for key, value in how.items() if value is not None}
    if timestamps:
        changes["timestamps"] = True
    request = Request(artifact=artifact, audio=audio, changes=changes, threads=threads, trust=trust)
    rows: list[dict[str, Any]] = []

    def on_transcript(path: Path, transcript: Transcript) -> None:
        if as_json:
            segments = [vars(segment) for segment in transcript.segments]
            rows.append({"audio": str(path), "text": transcript.text, "segments": segments})
            return
        name = f"{path}: " if len(audio) > 1 else ""
        for line in _lines(transcript, timestamps):
            terminal.say(name + line)

    with terminal.progress() as progress:
        transcribe_fresh(request, progress, on_transcript)
    if as_json:
        terminal.say_json(transcripts=rows)


def _lines(transcript: Transcript, timestamps: bool) -> list[str]:
    if not timestamps:
        return [transcript.text.strip()]
    return [
        f"[{segment.start_s:.2f} - {segment.end_s:.2f}] {segment.text.strip()}"
        for segment in transcript.segments
    ]
