"""Read rows from files of text: JSON lines, JSON arrays, CSV and Common Voice's TSV.

Files of lines are streamed. What must be in memory as a whole has a bound: a line, a field, a JSON
array.
"""

import codecs
import csv
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from exporter.errors import DataError
from exporter.system.files import read_small

MAX_FILE_BYTES = 512 << 20
_MAX_LINE_BYTES = 1 << 20
_MAX_ARRAY_BYTES = 32 << 20
_BLANKS = re.compile(r"[ \t\r\n]*")


class Row(NamedTuple):
    """One row of a data set.

    Attributes:
        where: File and line, for messages.
        base: The folder that paths are relative to.
        fields: The values by name.
        id: The clip's name in the data; empty for the path.
        text_where: File and line of the text, if it is in another file.
    """

    where: str
    base: Path
    fields: Mapping[str, Any]
    id: str = ""
    text_where: str = ""


def rows_of_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a table or manifest, by its suffix and first character."""
    if path.suffix.lower() in {".csv", ".tsv"}:
        yield from _table(path)
    elif _starts_with_bracket(path):
        yield from _json_array(path)
    else:
        yield from _json_lines(path)


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each with its place for messages.

    Raises:
        DataError: The file or a line is too long, or no UTF-8 text.
    """
    for where, line in _all_lines(path):
        if line.strip():
            yield where, line


def _all_lines(path: Path) -> Iterator[tuple[str, str]]:
    with opened(path) as stream:
        number = 0
        while line := stream.readline(_MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > _MAX_LINE_BYTES:
                msg = f"{where}: a line longer than {_MAX_LINE_BYTES >> 20} MiB"
                raise DataError(msg)
            try:
                yield where, line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
            except UnicodeDecodeError as error:
                msg = f"{where}: cannot be read as UTF-8 text ({error})"
                raise DataError(msg) from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file of at most `MAX_FILE_BYTES`, without waiting for a pipe's writer.

    Raises:
        DataError: It cannot be opened or read, is no regular file, or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                msg = f"{path} is not a regular file: give a manifest, or a folder with one"
                raise DataError(msg)
            if facts.st_size > MAX_FILE_BYTES:
                msg = f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB: split it"
                raise DataError(msg)
            yield stream
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DataError(msg) from error


def _json_lines(path: Path) -> Iterator[Row]:
    for where, line in lines_of(path):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            msg = f"{where}: not a line of JSON ({error})"
            raise DataError(msg) from error
        yield _row(where, path, fields)


def _row(where: str, path: Path, fields: object) -> Row:
    if not isinstance(fields, dict):
        msg = f"{where}: expected an object with audio and text, not {type(fields).__name__}"
        raise DataError(msg)
    return Row(where, path.parent, fields)


def _starts_with_bracket(path: Path) -> bool:
    with opened(path) as stream:
        return stream.read(1 << 12).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _json_array(path: Path) -> Iterator[Row]:
    """Yield the objects of an array, each with the line on which it begins."""
    text = _whole(path)
    decode = json.JSONDecoder().raw_decode
    start, line, counted = _after_blanks(text, text.index("[") + 1), 1, 0
    while not text.startswith("]", start):
        line, counted = line + text.count("\n", counted, start), start
        where = f"{path}:{line}"
        try:
            fields, end = decode(text, start)
            start = _after_comma(text, _after_blanks(text, end))
        except (ValueError, RecursionError) as error:
            msg = f"{where}: not an array of JSON ({error})"
            raise DataError(msg) from error
        yield _row(where, path, fields)
    if text[start + 1 :].strip():
        msg = f"{path}: something follows the array: give JSON lines, or one array"
        raise DataError(msg)


def _whole(path: Path) -> str:
    try:
        data = read_small(path, _MAX_ARRAY_BYTES, DataError, "an array (write long ones as lines)")
        return data.decode("utf-8-sig")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise DataError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path} cannot be read as UTF-8 text ({error})"
        raise DataError(msg) from error


def _after_blanks(text: str, place: int) -> int:
    blanks = _BLANKS.match(text, place)
    return blanks.end() if blanks else place


def _after_comma(text: str, place: int) -> int:
    if text.startswith(",", place):
        return _after_blanks(text, place + 1)
    if text.startswith("]", place):
        return place
    msg = "neither a comma nor the end of the array follows"
    raise ValueError(msg)


class _Tabs(csv.excel_tab):
    """Common Voice's dialect, in which quotation marks are part of the sentence."""

    quoting = csv.QUOTE_NONE


def _table(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV, or of Common Voice's TSV, whose audio is in `clips/`."""
    tabs = path.suffix.lower() == ".tsv"
    base = path.parent / "clips" if tabs and (path.parent / "clips").is_dir() else path.parent
    lines = (line for _, line in _all_lines(path))
    reader = csv.DictReader(lines, dialect=_Tabs if tabs else csv.excel)
    try:
        names = reader.fieldnames or ()
        if len({*names}) < len(names):
            msg = f"{path}:1: two columns have the same name"
            raise DataError(msg)
        for fields in reader:
            if None in fields or None in fields.values():
                msg = f"{path}:{reader.line_num}: not as many fields as the header has"
                raise DataError(msg)
            yield Row(f"{path}:{reader.line_num}", base, fields)
    except csv.Error as error:
        msg = f"{path}:{reader.line_num}: cannot be read as a table ({error})"
        raise DataError(msg) from error
