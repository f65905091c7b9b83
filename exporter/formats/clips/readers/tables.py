"""Read rows from files of text: JSON lines, JSON arrays, CSV and Common Voice's TSV.

Files of lines are streamed, and those whose names end in `.gz` are unpacked meanwhile. What must be
in memory as a whole has a bound: a line, a field, a JSON array.
"""

import codecs
import csv
import gzip
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from exporter.errors import DataError
from exporter.formats.clips.readers.lhotse import cut_row, is_cut
from exporter.formats.clips.row import Row
from exporter.system.files import read_small

MAX_FILE_BYTES = 4 << 30  # also of what is unpacked
_MAX_LINE_BYTES = 1 << 20
_MAX_ARRAY_BYTES = 32 << 20
_BLANKS = re.compile(r"[ \t\r\n]*")


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
    number, left = 0, MAX_FILE_BYTES
    with opened(path) as stream:
        while line := _next_line(stream, path, number):
            number, left = number + 1, left - len(line)
            where = f"{path}:{number}"
            if left < 0:
                msg = f"{where}: unpacked, it is larger than {MAX_FILE_BYTES >> 20} MiB: split it"
                raise DataError(msg)
            if len(line) > _MAX_LINE_BYTES:
                msg = f"{where}: a line longer than {_MAX_LINE_BYTES >> 20} MiB"
                raise DataError(msg)
            try:
                yield where, line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
            except UnicodeDecodeError as error:
                msg = f"{where}: cannot be read as UTF-8 text ({error})"
                raise DataError(msg) from error


def _next_line(stream: IO[bytes], path: Path, number: int) -> bytes:
    try:
        return stream.readline(_MAX_LINE_BYTES + 1)
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        msg = f"{path}:{number + 1}: cannot be unpacked ({error})"
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
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    yield cast("IO[bytes]", unpacked)
            else:
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
    if is_cut(fields):
        return cut_row(where, path, fields)
    return Row(where, path.parent, fields)


def _starts_with_bracket(path: Path) -> bool:
    with opened(path) as stream:
        try:
            start = stream.read(1 << 12)
        except (zlib.error, EOFError, gzip.BadGzipFile):
            return False  # told with its line by what reads lines
        return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


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
