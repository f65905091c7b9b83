"""Transcribe files in a fresh process: what `exporter transcribe` asks for, and what answers.

An artifact may hold native code. It runs where there is no key of its user's, and where its crash
is told as one. So what the Hub has is pulled before that process starts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from exporter.families.transcript import Segment, Transcript
from exporter.hub import pull
from exporter.runtime import load
from exporter.system import worker
from exporter.system.progress import Progress


class Request(BaseModel):
    """Which artifact hears what; `changes` to the recipe's decoding, and the user's word for it.

    `artifact` is a folder, or `ORG/NAME` or `ORG/NAME@REVISION` of the Hub.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str
    audio: tuple[Path, ...]
    changes: dict[str, Any]
    threads: int | None
    trust: bool


def transcribe_fresh(request: Request, progress: Progress) -> list[Transcript]:
    """Transcribe in a process of its own; raises what `pull.locate` and `child.run` raise."""
    folder = pull.locate(request.artifact, progress, trust=request.trust)
    asked = {**request.model_dump(mode="json"), "artifact": str(folder)}
    answer = worker.run(f"{__name__}:transcribe", asked, progress, what=request.artifact)
    return [_transcript(**row) for row in answer["transcripts"]]


def transcribe(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Load the artifact and transcribe every file, in order."""
    request = Request.model_validate(asked)
    progress("loading", None)
    recogniser = load.load(request.artifact, threads=request.threads, trust=request.trust)
    progress("transcribing", None)
    decoding = recogniser.decoding.model_copy(update=request.changes)
    heard = recogniser.transcribe(list(request.audio), decoding)
    rows = [{**vars(each), "segments": [vars(s) for s in each.segments]} for each in heard]
    return {"transcripts": rows}


def _transcript(text: str, tokens: Sequence[int], segments: Sequence[dict[str, Any]]) -> Transcript:
    return Transcript(text, tuple(tokens), tuple(Segment(**each) for each in segments))
