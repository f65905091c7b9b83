"""The names of fields in data, and how their values are checked."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from exporter.errors import DataError
from exporter.formats.audio.files import MAX_S

# In the order of preference: ours, NeMo and Open ASR, audiofolder, Common Voice.
AUDIO_NAMES = ("audio", "audio_filepath", "file_name", "path")
LANGUAGE_NAMES = ("language", "lang", "locale")
TEXT_NAMES = ("text", "sentence", "transcription", "transcript")
# Ours and NeMo's, datasets' of the Hub, Common Voice's.
SPEAKER_NAMES = ("speaker", "speaker_id", "client_id")
RECORDING_NAMES = ("recording", "recording_id", "session", "session_id", "chapter_id")
MAX_CHARACTERS = 100_000  # of one clip's text: about two hours of speech
_MOST_NAME = 1000  # characters of a speaker's or a recording's name
# What `os.fsdecode` makes of bytes that are not UTF-8, and the other lone surrogates.
_ESCAPED, _HALF = re.compile("[\udc80-\udcff]"), re.compile("[\ud800-\udfff]")


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


def language_of(where: str, fields: Mapping[str, Any]) -> str | None:
    """Return the language that a row names.

    Raises:
        DataError: It is no text.
    """
    key = next((name for name in LANGUAGE_NAMES if fields.get(name)), None)
    language = fields[key] if key else None
    if not isinstance(language, str | None) or _HALF.search(language or ""):
        msg = f"{where}: {key} must be a string, not {language!r:.40}"
        raise DataError(msg)
    return (language or "").strip() or None


def path_of(where: str, fields: Mapping[str, Any]) -> str:
    """Return the path of a row's audio file, as it stands there.

    Raises:
        DataError: There is none, or it is no path.
    """
    name = _field(where, fields, AUDIO_NAMES, "audio").strip()
    require_path(where, name)
    return name


def require_path(where: str, name: str) -> None:
    """Raise DataError for what is no path of a file: a command, or nothing."""
    if not name or name.startswith("|") or name.endswith("|") or "\0" in name:
        shown = f"{name!r:.80}"
        msg = f"{where}: {shown} is no path of an audio file (commands and pipes are refused)"
        raise DataError(msg)


def text_of(where: str, fields: Mapping[str, Any], *, required: bool) -> str:
    """Return a row's text, which may be empty.

    Raises:
        DataError: It is missing and `required`, no text, or too long.
    """
    if not required and not {*TEXT_NAMES} & {*fields}:
        return ""
    text = _field(where, fields, TEXT_NAMES, "text")
    if len(text) > MAX_CHARACTERS:
        msg = f"{where}: a text of {len(text):,} characters, more than {MAX_CHARACTERS:,}"
        raise DataError(msg)
    return text


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


def seconds(where: str, name: str, value: Any) -> float | None:
    """Return a number of seconds; None where there is none.

    Args:
        where: File and line, for messages.
        name: What the number is called there.
        value: A number, or one as text, as tables have it.

    Raises:
        DataError: It is no number, negative, not finite, or longer than recordings may be.
    """
    if value is None or value == "":
        return None
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if 0 <= number <= MAX_S:
        return number
    msg = f"{where}: {name} must be seconds from 0 to {MAX_S}, not {value!r:.40}"
    raise DataError(msg)
