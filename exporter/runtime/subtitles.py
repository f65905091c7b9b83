"""Transcripts as text, subtitles, tables and JSON."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from exporter.runtime.cues import PLAIN, Layout, cues, one_line
from exporter.runtime.transcript import Transcript

_MS = 1000


def lines_of(transcript: Transcript, form: str, name: str, layout: Layout = PLAIN) -> list[str]:
    """Return a transcript in one of `FORMATS`.

    Args:
        transcript: The transcript; subtitles and tables have a part for each of its segments.
        form: The format.
        name: What JSON calls the recording.
        layout: How words are laid out in subtitles.

    Returns:
        Lines without their ends.
    """
    if form in SUBTITLES:
        return list(SUBTITLES[form](transcript, layout))
    return list(_WRITERS[form](transcript, name))


def as_data(transcript: Transcript, name: str) -> dict[str, Any]:
    """Return a transcript as JSON has it."""
    known = transcript.to_dict()
    del known["tokens"]
    return {"audio": name, **known}


def _text(transcript: Transcript, _name: str) -> Iterator[str]:
    yield transcript.text.strip()


def _json(transcript: Transcript, name: str) -> Iterator[str]:
    text = json.dumps(as_data(transcript, name), indent=2, ensure_ascii=False)
    yield from text.split("\n")


def _jsonl(transcript: Transcript, name: str) -> Iterator[str]:
    yield json.dumps(as_data(transcript, name), ensure_ascii=False)


def _srt(transcript: Transcript, layout: Layout) -> Iterator[str]:
    for number, cue in enumerate(cues(transcript, layout, str), start=1):
        yield str(number)
        yield f"{clock(cue.start_s, ',')} --> {clock(cue.end_s, ',')}"
        yield from (*cue.text.split("\n"), "")


def _vtt(transcript: Transcript, layout: Layout) -> Iterator[str]:
    yield from ("WEBVTT", "")
    for cue in cues(transcript, layout, _escaped):
        yield f"{clock(cue.start_s, '.')} --> {clock(cue.end_s, '.')}"
        yield from (*cue.text.split("\n"), "")


def _escaped(text: str) -> str:
    """Return a cue's text, which may hold neither markup nor an arrow.

    Source: https://www.w3.org/TR/webvtt1/#webvtt-cue-text-span
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tsv(transcript: Transcript, _name: str) -> Iterator[str]:
    """Yield rows of milliseconds and text, as openai-whisper writes them."""
    yield "start\tend\ttext"
    for segment in transcript.segments:
        times = round(segment.start_s * _MS), round(segment.end_s * _MS)
        yield "\t".join((*map(str, times), one_line(segment.text)))


_WRITERS: Mapping[str, Callable[[Transcript, str], Iterator[str]]] = {
    **{"text": _text, "json": _json, "jsonl": _jsonl, "tsv": _tsv},
}
SUBTITLES: Mapping[str, Callable[[Transcript, Layout], Iterator[str]]] = {"srt": _srt, "vtt": _vtt}
"""The formats of subtitles, and what writes them."""
FORMATS = (*_WRITERS, *SUBTITLES)
TIMED = (*SUBTITLES, "tsv")
"""The formats that have times."""


def clock(seconds: float, point: str) -> str:
    """Return a time as subtitles have it, like 00:01:02,500."""
    minutes, ms = divmod(round(seconds * _MS), 60 * _MS)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{ms // _MS:02}{point}{ms % _MS:03}"
