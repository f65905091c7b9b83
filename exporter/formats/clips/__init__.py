"""Clips: recordings with their reference text, from common layouts of data sets.

Every reader of `layouts` yields rows; one function turns a row into a clip, so that each mistake is
reported with file and line before any model is opened.
"""

import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import DataError
from exporter.formats.clips.layouts import rows_of
from exporter.formats.clips.tables import Row
from exporter.system.files import readable_name

# In the order of preference: ours, NeMo and Open ASR, audiofolder, Common Voice.
AUDIO_NAMES = ("audio", "audio_filepath", "file_name", "path")
LANGUAGE_NAMES = ("language", "lang", "locale")
TEXT_NAMES = ("text", "sentence", "transcription", "transcript")
# Ours and NeMo's, datasets' of the Hub, Common Voice's.
SPEAKER_NAMES = ("speaker", "speaker_id", "client_id")
RECORDING_NAMES = ("recording", "recording_id", "session", "session_id", "chapter_id")
_MOST_NAME = 1000  # characters of a speaker's or a recording's name
MAX_CHARACTERS = 100_000  # of one clip's text: about two hours of speech
# What `os.fsdecode` makes of bytes that are not UTF-8, and the other lone surrogates.
_ESCAPED, _HALF = re.compile("[\udc80-\udcff]"), re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording: its name in the data, its file, its reference text and language.

    `where` is the place of its text, for messages. `speaker` says who speaks, and `recording` which
    longer recording the clip was cut from, where the data tell.
    """

    id: str
    path: Path
    text: str
    language: str | None = None
    duration_s: float = 0.0
    where: str = ""
    speaker: str | None = None
    recording: str | None = None


def list_clips(source: Path) -> Iterator[Clip]:
    """Yield the clips of a folder (see `layouts`) or a manifest.

    Rows are checked one at a time, and no audio is opened: the durations are zero.

    Args:
        source: The folder or the manifest file.

    Yields:
        The clips in the data's order.

    Raises:
        DataError: For the first bad row, naming file and line.
    """
    listed: set[str] = set()
    for row in rows_of(source):
        clip = _clip(row)
        if clip.id in listed:
            msg = f"{row.where}: {clip.id} is listed twice; each clip must count once"
            raise DataError(msg)
        listed.add(clip.id)
        yield clip


def audio_of(manifest: Path) -> Iterator[Path]:
    """Yield the files of audio that a manifest names; no text needs to be there, nor the files.

    Raises:
        DataError: For the first bad row, naming file and line.
    """
    for row in rows_of(manifest):
        yield row.base / _audio(row)


def chosen(count: int, most: int | None, seed: int) -> Sequence[int]:
    """Return the sorted indices of `most` of `count` clips, or of all if `most` is None.

    They are drawn at random, because the first clips may all be one speaker's.
    """
    if most is None or most >= count:
        return range(count)
    return sorted(random.Random(seed).sample(range(count), most))


def _clip(row: Row) -> Clip:
    """Check one row; its audio file must exist, and is decoded later."""
    where, fields = row.where, row.fields
    name = _audio(row)
    language = _language(where, fields)
    path = row.base / name
    _require_file(where, path)
    # Ids are published in reports, so they must not contain paths of this machine.
    known = row.id or (name if not Path(name).is_absolute() else path.name)
    where = row.text_where or where
    text = _text(where, _field(where, fields, TEXT_NAMES, "text"))
    origin = origin_of(row.where, fields)
    return Clip(readable_name(known), path, text, language, 0.0, where, *origin)


def _audio(row: Row) -> str:
    """Return the path of a row's audio file, as it stands there."""
    name = _field(row.where, row.fields, AUDIO_NAMES, "audio").strip()
    if not name or name.startswith("|") or name.endswith("|") or "\0" in name:
        shown = f"{name!r:.80}"
        msg = f"{row.where}: {shown} is no path of an audio file (commands and pipes are refused)"
        raise DataError(msg)
    if _number(row.fields.get("offset")) != 0:
        msg = f"{row.where}: offsets into a longer recording are not supported; cut the audio first"
        raise DataError(msg)
    return name


def origin_of(where: str, fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the names of a row's speaker and recording, None where it names none.

    Raises:
        DataError: One is neither text nor a whole number.
    """
    return _name(where, fields, SPEAKER_NAMES), _name(where, fields, RECORDING_NAMES)


def _name(where: str, fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first of some fields that says something."""
    for key in names:
        value = fields.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64
        text = str(value) if whole else "" if value is None else value
        if not isinstance(text, str) or len(text) > _MOST_NAME or _HALF.search(text):
            msg = f"{where}: {key} must be a name or a whole number, not {value!r:.40}"
            raise DataError(msg)
        if text.strip():
            return text.strip()
    return None


def _language(where: str, row: Mapping[str, Any]) -> str | None:
    key = next((name for name in LANGUAGE_NAMES if row.get(name)), None)
    language = row[key] if key else None
    if not isinstance(language, str | None) or _HALF.search(language or ""):
        msg = f"{where}: {key} must be a string, not {language!r:.40}"
        raise DataError(msg)
    return (language or "").strip() or None


def _require_file(where: str, path: Path) -> None:
    try:
        if path.is_file():
            return
        reason = "does not exist or is not a regular file"
    except (OSError, ValueError) as error:  # the name is too long, or the folder not readable
        reason = f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    msg = f"{where}: audio file {readable_name(str(path))[:300]} {reason}"
    raise DataError(msg)


def _field(where: str, row: Mapping[str, Any], names: tuple[str, ...], what: str) -> str:
    key = next((name for name in names if name in row), None)
    if key is None:
        msg = f"{where}: no {what}: expected one of the fields {', '.join(names)}"
        raise DataError(msg)
    value = row[key]
    if not isinstance(value, str):
        msg = f"{where}: {key} must be a string, not {value!r:.40}"
        raise DataError(msg)
    if _HALF.search(_ESCAPED.sub("", value) if what == "audio" and os.name == "posix" else value):
        msg = f"{where}: {key} holds half a character (a lone surrogate)"
        raise DataError(msg)
    return value


def _text(where: str, text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        msg = f"{where}: a text of {len(text):,} characters, more than {MAX_CHARACTERS:,}"
        raise DataError(msg)
    return text


def _number(value: Any) -> float | None:
    """Return an offset's value: 0 where there is none, None where it is no number."""
    try:
        return float(value or 0)
    except (TypeError, ValueError, OverflowError):
        return None
