"""The transcribe command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, trust_option
from exporter.cli.output.terminal import Terminal

if TYPE_CHECKING:
    pass


@command
@click.argument("artifact")
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
    with terminal.progress() as progress:
        transcripts = transcribe_fresh(request, progress)
    if as_json:
        rows = [
            {"audio": str(path), "text": said.text, "segments": [vars(s) for s in said.segments]}
            for path, said in zip(audio, transcripts, strict=True)
        ]
        terminal.say_json(transcripts=rows)
        return
    for path, said in zip(audio, transcripts, strict=True):
        name = f"{path}: " if len(audio) > 1 else ""
        if not timestamps:
            terminal.say(f"{name}{said.text.strip()}")
        for segment in said.segments if timestamps else ():
            span = f"[{segment.start_s:.2f} - {segment.end_s:.2f}]"
            terminal.say(f"{name}{span} {segment.text.strip()}")
