"""The transcribe command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, trust_option
from exporter.cli.output.terminal import Terminal

if TYPE_CHECKING:
    from exporter.families.transcript import Transcript


@command
@click.argument("artifact")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Like en; instead of the recipe's.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Also instead.")
@click.option("--timestamps", is_flag=True, help="Show when each piece is said.")
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
    """Print the text of audio files, heard by an artifact: a folder, or ORG/NAME of the Hub."""
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
