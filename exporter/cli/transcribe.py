"""The transcribe command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts, trust_option
from exporter.cli.output.terminal import Terminal
from exporter.errors import DataError
from exporter.system.files import readable_name
from exporter.system.hardware import MAX_THREADS

if TYPE_CHECKING:
    from exporter.runtime.transcript import Transcript


@command(
    "artifacts/whisper-demo-int8/onnx-int8 speech.flac",
    "ORG/NAME *.wav --language de --timestamps --json",
)
@click.argument("artifact", shell_complete=complete_artifacts)
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Language of the speech, like en.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Output text.")
@click.option("--timestamps", is_flag=True, help="Print start and end of each segment.")
@click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), metavar="N", help="Default: all cores."
)
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
    recipe's. A file that cannot be read is told, costs no other file's text, and makes the exit
    code 3.
    """
    from exporter.artifact.lookup import require_audio
    from exporter.recognition.transcribe import Request, transcribe_fresh

    require_audio(artifact, audio)
    changes = {key: value for key, value in how.items() if value is not None}
    if timestamps:
        changes["timestamps"] = True
    request = Request(artifact=artifact, audio=audio, changes=changes, threads=threads, trust=trust)
    rows: list[dict[str, Any]] = []

    errors: list[DataError] = []

    def on_outcome(path: Path, outcome: Transcript | DataError) -> None:
        name = readable_name(str(path))
        if isinstance(outcome, DataError):
            errors.append(outcome)
            rows.append({"audio": name, "error": str(outcome)})
            if len(audio) > 1:
                terminal.tell(f"error: {outcome}")
        elif as_json:
            known = outcome.to_dict()
            rows.append({"audio": name, "text": known["text"], "segments": known["segments"]})
        else:
            for line in _lines(outcome, timestamps):
                terminal.say(f"{name}: {line}" if len(audio) > 1 else line)

    try:
        with terminal.progress() as progress:
            transcribe_fresh(request, progress, on_outcome)
    finally:
        if as_json and rows:  # also those before an error that ended all
            terminal.say_json(transcripts=rows)
    if errors:
        msg = f"{len(errors)} of {len(audio)} files could not be transcribed"
        raise DataError(msg) if len(audio) > 1 else errors[0]


def _lines(transcript: Transcript, timestamps: bool) -> list[str]:
    if not timestamps:
        return [transcript.text.strip()]
    return [
        f"[{segment.start_s:.2f} - {segment.end_s:.2f}] {segment.text.strip()}"
        for segment in transcript.segments
    ]
