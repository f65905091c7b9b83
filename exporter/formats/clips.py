"""Clips: recordings with their reference text, from common layouts of data sets.

Every reader yields rows (place, folder, fields); one function turns a row into a clip, so that each
mistake is reported with file and line before any model is opened.
"""

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import DataError

# In the order of preference: ours, NeMo and Open ASR, audiofolder, Common Voice.
AUDIO_NAMES = ("audio", "audio_filepath", "file_name", "path")
TEXT_NAMES = ("text", "sentence", "transcription", "transcript")
MANIFESTS = ("manifest.jsonl", "metadata.jsonl", "metadata.csv")


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording: its name in the data, its file, its reference text and language."""

    id: str
    path: Path
    text: str
    language: str | None = None
    duration_s: float = 0.0


def list_clips(source: Path) -> Iterator[Clip]:
    """Yield the clips of a folder (manifest, audiofolder, LibriSpeech's layout) or a manifest.

    Rows are checked one at a time, and no audio is opened: the durations are zero.

    Args:
        source: The folder or the manifest file.

    Yields:
        The clips in the data's order.

    Raises:
        DataError: For the first bad row, naming file and line.
    """
    listed: set[str] = set()
    for where, base, row in _rows(source):
        clip = _clip(where, base, row)
        if clip.id in listed:
            msg = f"{where}: {clip.id} is listed twice; each clip must count once"
            raise DataError(msg)
        listed.add(clip.id)
        yield clip


def chosen(count: int, most: int | None, seed: int) -> Sequence[int]:
    """Return the sorted indices of `most` of `count` clips, or of all if `most` is None.

    They are drawn at random, because the first clips may all be one speaker's.
    """
    if most is None or most >= count:
        return range(count)
    return sorted(random.Random(seed).sample(range(count), most))


class _Tabs(csv.excel_tab):
    """Common Voice's dialect, in which quotation marks are part of the sentence."""

    quoting = csv.QUOTE_NONE


Row = tuple[str, Path, Mapping[str, Any]]  # place for messages, folder of the paths, fields


def _rows(source: Path) -> Iterator[Row]:
    """Yield the rows of a folder or manifest, by the reader for its layout."""
    if not source.exists():
        msg = f"no clips at {source}: give a folder of audio with a manifest.jsonl, or a manifest"
        raise DataError(msg)
    if source.is_file():
        yield from _table(source) if source.suffix in {".csv", ".tsv"} else _json_lines(source)
        return
    for name in MANIFESTS:
        if (source / name).is_file():
            yield from _rows(source / name)
            return
    transcripts = sorted(source.rglob("*.trans.txt"))
    if not transcripts:
        known = ", ".join(MANIFESTS)
        msg = f"{source} has none of {known}, and no *.trans.txt of LibriSpeech's layout"
        raise DataError(msg)
    for path in transcripts:
        yield from _librispeech(source, path)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each with its place for messages."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}:{number}", line
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as UTF-8 text ({error})"
        raise DataError(msg) from error


def _json_lines(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            msg = f"{where}: not a line of JSON ({error})"
            raise DataError(msg) from error
        if not isinstance(row, dict):
            msg = f"{where}: expected an object with audio and text, not {type(row).__name__}"
            raise DataError(msg)
        yield where, path.parent, row


def _table(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV, or of Common Voice's TSV, whose audio is in `clips/`."""
    tabs = path.suffix == ".tsv"
    base = path.parent / "clips" if tabs and (path.parent / "clips").is_dir() else path.parent
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            dialect = _Tabs if tabs else csv.excel
            reader = csv.DictReader(stream, dialect=dialect)
            for row in reader:
                if None in row or None in row.values():
                    msg = f"{path}:{reader.line_num}: not as many fields as the header has"
                    raise DataError(msg)
                yield f"{path}:{reader.line_num}", base, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read as a UTF-8 table ({error})"
        raise DataError(msg) from error


def _librispeech(root: Path, path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        name, _, text = line.strip().partition(" ")
        audio_path = (path.parent / f"{name}.flac").relative_to(root).as_posix()
        yield where, root, {"audio": audio_path, "text": text, "language": "en"}


def _clip(where: str, base: Path, row: Mapping[str, Any]) -> Clip:
    """Check one row; its audio file must exist, and its header is read later."""
    name = _field(where, row, AUDIO_NAMES, "audio").strip()
    if not name or name.startswith("|") or name.endswith("|") or "\0" in name:
        msg = f"{where}: {name!r} is no path of an audio file (commands and pipes are refused)"
        raise DataError(msg)
    if row.get("offset"):
        msg = f"{where}: offsets into a longer recording are not supported; cut the audio first"
        raise DataError(msg)
    language = row.get("language") or None
    if not isinstance(language, str | None):
        msg = f"{where}: language must be a string, not {language!r}"
        raise DataError(msg)
    path = base / name
    if not path.is_file():
        msg = f"{where}: audio file {path} does not exist or is not a regular file"
        raise DataError(msg)
    # Ids are published in reports, so they must not contain paths of this machine.
    known = name if not Path(name).is_absolute() else path.name
    return Clip(known, path, _field(where, row, TEXT_NAMES, "text"), language)


def _field(where: str, row: Mapping[str, Any], names: tuple[str, ...], what: str) -> str:
    key = next((name for name in names if name in row), None)
    if key is None:
        msg = f"{where}: no {what}: expected one of the fields {', '.join(names)}"
        raise DataError(msg)
    if not isinstance(row[key], str):
        msg = f"{where}: {key} must be a string, not {row[key]!r:.40}"
        raise DataError(msg)
    if any("\ud800" <= character <= "\udfff" for character in row[key]):
        msg = f"{where}: {key} holds half a character (a lone surrogate), which no file can"
        raise DataError(msg)
    return str(row[key])
