"""Parquet files as `datasets` of Hugging Face writes them: a row a clip, with its encoded audio.

A list of clips is made of all columns but that of the audio's bytes, which are read later, row
after row. `datasets` is not used: it would bring its own pins of the Hub client and of an audio
decoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.errors import DataError, exhausted, needing
from exporter.formats.clips import remote
from exporter.formats.clips.addresses import Remote
from exporter.formats.clips.clip import Cell
from exporter.formats.clips.fields import (
    LANGUAGE_NAMES,
    RECORDING_NAMES,
    SPEAKER_NAMES,
    TEXT_NAMES,
)
from exporter.formats.clips.row import Place, Row

SUFFIX = ".parquet"
_SOUND = "audio"
_NAMES = re.compile(r"(large_)?string(_view)?|u?int\d+")
_NUMBERS = re.compile(r"float|double|halffloat|u?int\d+")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_ROWS, _SOUNDS = 4096, 16  # read together


def splits_of(files: list[Path | Remote]) -> dict[str, list[Path | Remote]]:
    """Return files by their split, as the Hub names it: `test-00000-of-00001` or `test/0000`."""
    found: dict[str, list[Path | Remote]] = {}
    for each in files:
        stem = each.name.removesuffix(SUFFIX)
        name = re.sub(r"-\d+(-of-\d+)?$", "", stem)
        if stem.isdecimal():
            name = PurePosixPath(str(each)).parent.name
        found.setdefault(name, []).append(each)
    return found


def count_of(file: Path | Remote) -> int:
    """Return the number of rows of a parquet file; raises as `rows_of_parquet`."""
    with opened(file) as read:
        return int(read.metadata.num_rows)


def rows_of_parquet(file: Path | Remote, *, text: bool) -> Iterator[Row]:
    """Yield the rows of a parquet file; no audio is read.

    Args:
        file: The file.
        text: Whether it needs a column of texts.

    Raises:
        DataError: The file is damaged, or has no column `audio` of {bytes, path}, or none of texts.
        MachineError: pyarrow is missing.
    """
    with opened(file) as read:
        columns = _columns(file, read.schema_arrow, text=text)
        base = Path() if isinstance(file, Remote) else file.parent
        index = 0
        for group in range(read.metadata.num_row_groups):
            for row, fields in enumerate(_batched(file, read, group, columns, _ROWS)):
                sound = fields.pop(_SOUND, None) or {}
                given = sound.get("path") if isinstance(sound, dict) else None
                number = fields.get("id")
                known = isinstance(number, str | int) and not isinstance(number, bool)
                name = str(number) if known and str(number).strip() else f"{index:06}"
                if not known:
                    name = f"{file.name}/{name}"
                place = _place(file, group, row)
                where = f"{file}: row {index}"
                yield Row(where, base, fields, name + suffix_of(given), place=place)
                index += 1


def suffix_of(path: Any) -> str:
    """Return the suffix of a sound's path in a row, if it is a usual one; .wav without a path."""
    suffix = PurePosixPath(path if isinstance(path, str) and path else "clip.wav").suffix
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _place(file: Path | Remote, group: int, row: int) -> Place:
    if isinstance(file, Remote):
        return Place(Path(file.name), Cell(group, row, file.url))
    return Place(file, Cell(group, row))


def _columns(file: Path | Remote, schema: Any, *, text: bool) -> list[str]:
    """Return the columns to list clips by.

    Raises:
        DataError: There is no audio as bytes, or no text.
    """
    types = {field.name: str(field.type) for field in schema}
    if len(types) < len(schema.names):
        msg = f"{file}: two columns have the same name"
        raise DataError(msg)
    texts = [name for name in TEXT_NAMES if name in types]
    sound = types.get(_SOUND, "")
    if not sound.startswith("struct<") or "bytes" not in sound or (text and not texts):
        has = ", ".join(f"{name} ({kind:.40})" for name, kind in [*types.items()][:12])
        names = ", ".join(TEXT_NAMES)
        needs = f"{file} needs `audio` ({{bytes, path}})" + (f" and one of {names}" if text else "")
        msg = f"{needs}; it has {has or 'no columns'}"
        raise DataError(msg)
    origin = [name for name in (*SPEAKER_NAMES, *RECORDING_NAMES, "id") if _is(_NAMES, types, name)]
    language = [name for name in LANGUAGE_NAMES if _is(_NAMES, types, name)]
    numbers = [name for name in ("duration",) if _is(_NUMBERS, types, name)]
    path = [f"{_SOUND}.path"] if "path: " in sound else []
    return [*path, *texts[:1], *origin, *language, *numbers]


def _is(kind: re.Pattern[str], types: dict[str, str], name: str) -> bool:
    return name in types and kind.fullmatch(types[name]) is not None


@contextmanager
def opened(file: Path | Remote) -> Iterator[Any]:
    """Open a parquet file.

    Raises:
        DataError: It cannot be read.
        MachineError: pyarrow is missing.
    """
    with needing("datasets"):
        parquet = import_module("pyarrow.parquet")
    with ExitStack() as stack:
        source = stack.enter_context(remote.opened(file)) if isinstance(file, Remote) else file
        try:
            read = stack.enter_context(parquet.ParquetFile(source))
        except (ValueError, OSError) as error:
            raise _damaged(file, error) from error
        yield read


def _damaged(file: Path | Remote, error: Exception) -> DataError:
    if exhausted(error):
        raise error
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return DataError(f"{file} cannot be read as a parquet file ({reason}): copy it again")


def _batched(
    file: Path | Remote, read: Any, group: int, columns: list[str], size: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a group; only some of them are in memory at a time."""
    try:
        if not columns:  # pyarrow would tell no row
            yield from ({} for _ in range(read.metadata.row_group(group).num_rows))
            return
        for batch in read.iter_batches(batch_size=size, row_groups=[group], columns=columns):
            yield from batch.to_pylist()
    except (ValueError, OSError) as error:  # pages are read, and checked, only here
        raise _damaged(file, error) from error


class Sounds:
    """The sounds of a parquet file; fast where rows are asked for in their order."""

    def __init__(self, file: Path | Remote) -> None:
        self.file = file
        self._stack = ExitStack()
        self._read = self._stack.enter_context(opened(file))
        self._group, self._next = -1, 0
        self._rows: Iterator[dict[str, Any]] = iter(())

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __getitem__(self, cell: Cell) -> Any:
        """Return a row's sound as it is there: usually a dictionary of `bytes` and `path`.

        Raises:
            DataError: The file is damaged, or has no such row.
        """
        if cell.group != self._group or cell.row < self._next:
            self._group, self._next = cell.group, 0
            self._rows = _batched(self.file, self._read, cell.group, [_SOUND], _SOUNDS)
        for row in self._rows:
            self._next += 1
            if self._next > cell.row:
                return row[_SOUND]
        msg = f"{self.file}: row {cell.row} of group {cell.group} is gone: the file was changed"
        raise DataError(msg)
