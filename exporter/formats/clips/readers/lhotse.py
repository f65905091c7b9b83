"""Cuts of lhotse, as its JSON lines have them, also those of Shar.

Source: lhotse 1.33, `MonoCut.to_dict`, `Recording.to_dict` and `SharWriter`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.errors import DataError
from exporter.formats.audio.cutting import Excerpt
from exporter.formats.audio.files import MAX_S
from exporter.formats.clips.fields import seconds
from exporter.formats.clips.readers.tars import SUFFIX as TAR
from exporter.formats.clips.row import Place, Row

_MONO = "MonoCut"
_SHAR = re.compile(r"cuts\.(\d+)\.jsonl(\.gz)?")
# Cuts and recordings round their durations; less than a sample at any usual rate.
_ROUNDING_S = 1e-4


def is_shar(name: str) -> bool:
    """Return whether a file has the name of a shard of cuts."""
    return _SHAR.fullmatch(name) is not None


def is_cut(fields: Mapping[str, Any]) -> bool:
    """Return whether a line of JSON is a cut."""
    kind = fields.get("type")
    return isinstance(kind, str) and kind.endswith("Cut") and "id" in fields


def cut_row(where: str, listed: Path, fields: Mapping[str, Any]) -> Row:
    """Return the row of a cut: a part of one channel of a file, or a file in Shar's archive.

    Args:
        where: File and line, for messages.
        listed: The file of cuts.
        fields: The cut.

    Raises:
        DataError: It is made of several recordings, or of audio that is in no file.
    """
    kind, name = fields["type"], fields["id"]
    if kind != _MONO:
        msg = (
            f"{where}: a {kind:.40} is made of several recordings or channels: only {_MONO} is "
            "read\nWrite its audio first: cuts.save_audios(FOLDER)."
        )
        raise DataError(msg)
    if not isinstance(name, str) or not name.strip():
        msg = f"{where}: id must be a name, not {name!r:.40}"
        raise DataError(msg)
    recording = _mapping(where, fields, "recording")
    path = _file(where, listed, recording)
    start_s = seconds(where, "start", fields.get("start")) or 0.0
    duration_s = seconds(where, "duration", fields.get("duration"))
    whole_s = seconds(where, "recording.duration", recording.get("duration"))
    if not duration_s or whole_s is None:
        msg = f"{where}: {'duration' if not duration_s else 'recording.duration'} must be above 0"
        raise DataError(msg)
    channel = _channel(where, fields, recording)
    whole = start_s == 0 and duration_s >= whole_s - _ROUNDING_S and channel is None
    part = None if whole else Excerpt(start_s, duration_s, channel)
    if part and path.suffix == TAR:
        msg = f"{where}: a part of a recording in an archive is not read: write the cuts again"
        raise DataError(msg)
    known = _spoken(where, fields)
    if not whole:
        known["recording"] = recording.get("id")
    return Row(
        where, listed.parent, {**known, "duration": duration_s}, name, place=Place(path, part)
    )


def _mapping(where: str, fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if isinstance(value, Mapping):
        return value
    what = "is missing" if value is None else f"must be an object, not {value!r:.40}"
    msg = f"{where}: {name} {what}: a cut without audio cannot be heard"
    raise DataError(msg)


def _file(where: str, listed: Path, recording: Mapping[str, Any]) -> Path:
    if recording.get("transforms"):
        msg = (
            f"{where}: its recording has transforms (of speed, volume or rate), which are not "
            "applied here\nWrite its audio first: cuts.save_audios(FOLDER)."
        )
        raise DataError(msg)
    sources = recording.get("sources")
    if isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], Mapping):
        kind, source = sources[0].get("type"), sources[0].get("source")
        if kind == "file" and isinstance(source, str) and source and "\0" not in source:
            return listed.parent / source
        number = _SHAR.fullmatch(listed.name)
        if kind == "shar" and number:
            return listed.with_name(f"recording.{number[1]}{TAR}")
        shown = f"of type {kind!r:.40}"
    else:
        shown = "of several files" if isinstance(sources, list) and len(sources) > 1 else "absent"
    msg = (
        f"{where}: its recording's source is {shown}; only one of type 'file' is read (commands, "
        "addresses\nand memory are not). Write its audio first: cuts.save_audios(FOLDER)."
    )
    raise DataError(msg)


def _channel(where: str, fields: Mapping[str, Any], recording: Mapping[str, Any]) -> int | None:
    """Return the channel of a recording that has several."""
    channels, channel = recording["sources"][0].get("channels"), fields.get("channel", 0)
    if not isinstance(channels, list) or channel not in channels or isinstance(channel, bool):
        msg = f"{where}: channel {channel!r:.40} is none of its recording's, {channels!r:.80}"
        raise DataError(msg)
    return channels.index(channel) if len(channels) > 1 else None


def _spoken(where: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return text, language and speaker: those of the supervisions, in the order of time."""
    given = fields.get("supervisions") or []
    if not isinstance(given, list) or not all(isinstance(each, Mapping) for each in given):
        msg = f"{where}: supervisions must be a list of objects, not {given!r:.40}"
        raise DataError(msg)
    starts = [_start(where, each.get("start")) for each in given]
    order = sorted(range(len(given)), key=starts.__getitem__)
    texts = [given[place].get("text") for place in order]
    if bad := [text for text in texts if not isinstance(text, str | None)]:
        msg = f"{where}: text must be a string, not {bad[0]!r:.40}"
        raise DataError(msg)
    spoken: dict[str, Any] = {name: _shared(given, name) for name in ("language", "speaker")}
    if given and None not in texts:
        spoken["text"] = " ".join(str(text) for text in texts)
    return spoken


def _start(where: str, value: Any) -> float:
    """Return when a supervision begins; before its cut, where that begins within it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and abs(value) <= MAX_S:
        return float(value)
    msg = f"{where}: a supervision's start must be seconds, not {value!r:.40}"
    raise DataError(msg)


def _shared(given: list[Mapping[str, Any]], name: str) -> Any:
    """Return what all supervisions say; None where they differ."""
    values = [each.get(name) for each in given]
    return values[0] if values and all(value == values[0] for value in values) else None
