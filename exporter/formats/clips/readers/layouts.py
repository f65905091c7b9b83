"""The layouts of data: what a folder, a file or an object store holds, and the reader for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from exporter.errors import DataError
from exporter.formats.clips.addresses import Remote
from exporter.formats.clips.readers.kaldi import AUDIO, SEGMENTS, rows_of_kaldi
from exporter.formats.clips.readers.lhotse import is_shar
from exporter.formats.clips.readers.parquet import SUFFIX as PARQUET
from exporter.formats.clips.readers.parquet import rows_of_parquet, splits_of
from exporter.formats.clips.readers.tables import lines_of, rows_of_file
from exporter.formats.clips.readers.tars import (
    COMPRESSED,
    require_plain,
    rows_in_shards,
    rows_of_cuts,
    rows_of_tar,
)
from exporter.formats.clips.readers.tars import SUFFIX as TAR
from exporter.formats.clips.remote import files_in
from exporter.formats.clips.row import Row

# Taken in this order, whatever else is there: ours, audiofolder's, and lhotse's.
_MANIFESTS = ("manifest.jsonl", "metadata.jsonl", "metadata.csv", "cuts.jsonl.gz", "cuts.jsonl")
_COMMON_VOICE = "test.tsv"
_TABLES = (".json", ".jsonl", ".jsonl.gz", ".csv", ".tsv")
_KNOWN = (
    f"{', '.join(_MANIFESTS)}, a NeMo manifest, Common Voice's {_COMMON_VOICE}, Kaldi's "
    f"{AUDIO} and text, *.tar, *.parquet, or *.trans.txt of LibriSpeech's layout"
)
_TEST = "test"
_CUTS = "cuts."

_LIBRISPEECH_ID = re.compile(r"(\d+)-(\d+)-\d+")

Source = Path | Remote


class UnknownLayout(DataError):
    """A folder holds no list of clips of a known layout."""


@dataclass(frozen=True)
class Layout:
    """A list of clips: what reads its rows, and whether clips may be parts of its files.

    `read` takes whether each row needs a text.
    """

    read: Callable[[bool], Iterator[Row]]
    has_parts: bool = False


def rows_of(source: Source, *, text: bool = True) -> Iterator[Row]:
    """Yield the rows of a folder or file, by the reader for its layout.

    Args:
        source: A folder or a file, or an address in an object store.
        text: Whether each row needs a text.

    Raises:
        DataError: There is no known layout, or more than one list of clips.
        MachineError: pyarrow is missing, which parquet files and object stores need.
    """
    yield from layout_of(source).read(text)


def layout_of(source: Source) -> Layout:
    """Return the layout of a folder or file.

    Raises:
        DataError: There is no known one, or more than one list of clips.
    """
    if isinstance(source, Remote):
        return _remote(source)
    try:
        is_folder, exists = source.is_dir(), source.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"no clips at {str(source)[:300]}: {reason}"
        raise DataError(msg) from error
    if not exists:
        msg = f"no clips at {source}: give a folder of audio with a manifest.jsonl, or a manifest"
        raise DataError(msg)
    return _folder(source) if is_folder else _file(source)


def is_list(path: Path) -> bool:
    """Return whether a file's name is that of a list of clips, or of an archive of them."""
    name = path.name.lower()
    return name.endswith((*_TABLES, PARQUET, TAR, *COMPRESSED)) or name == AUDIO


def _file(path: Path) -> Layout:
    require_plain(path.name)
    if path.suffix.lower() == PARQUET:
        return _parquets([path])
    if path.suffix.lower() == TAR:
        return _tars([path])
    if path.name == AUDIO:
        return _kaldi(path.parent)
    return _table(path)


def _table(path: Path) -> Layout:
    has_parts = path.name.startswith(_CUTS)
    return Layout(lambda _text: rows_of_cuts(rows_of_file(path)), has_parts)


def _kaldi(folder: Path) -> Layout:
    segmented = (folder / SEGMENTS).exists()
    return Layout(lambda text: rows_of_kaldi(folder, text=text), segmented)


def _parquets(files: Sequence[Source]) -> Layout:
    def read(text: bool) -> Iterator[Row]:
        for file in files:
            yield from rows_of_parquet(file, text=text)

    return Layout(read, has_parts=True)


def _tars(archives: Sequence[Source]) -> Layout:
    def read(text: bool) -> Iterator[Row]:
        for archive in archives:
            yield from rows_of_tar(archive, text=text)

    return Layout(read, has_parts=True)


def _folder(folder: Path) -> Layout:
    """Return the layout of a folder, by the names of its files."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        msg = f"{folder} cannot be read: {error.strerror}"
        raise DataError(msg) from error
    files = [name for name in names if (folder / name).is_file()]
    for name in _MANIFESTS:
        if name in files:
            return _table(folder / name)
    if shards := [folder / name for name in files if is_shar(name)]:
        return Layout(lambda _text: rows_of_cuts(chain(*map(rows_of_file, shards))), has_parts=True)
    found = _found(folder, files)
    if len(found) == 1:
        return next(iter(found.values()))()
    if found:
        shown = ", ".join([*found][:6]) + (" ..." if len(found) > 6 else "")
        msg = f"{folder} holds several lists of clips: {shown}\nName one of them as the data."
        raise DataError(msg)
    for name in files:
        require_plain(name)
    msg = f"{folder} has none of {_KNOWN}"
    raise UnknownLayout(msg)


def _found(folder: Path, files: list[str]) -> dict[str, Callable[[], Layout]]:
    """Return what there is in a folder without one of `_MANIFESTS`, by name."""
    if _COMMON_VOICE in files:  # of its other tables, nobody validates on
        files = [name for name in files if name == _COMMON_VOICE or not name.endswith(".tsv")]
    found: dict[str, Callable[[], Layout]] = {
        name: partial(_table, folder / name) for name in files if name.lower().endswith(_TABLES)
    }
    archives = [folder / name for name in files if name.lower().endswith(TAR)]
    if archives and len(found) == 1:
        (name,) = found
        return {name: partial(_sharded, folder / name, archives)}
    if archives:
        found[f"*{TAR}"] = partial(_tars, archives)
    if AUDIO in files:
        found[AUDIO] = partial(_kaldi, folder)
    if tables := _named(folder, PARQUET):
        found[f"*{PARQUET}"] = partial(_split, folder, tables)
    if _named(folder, ".trans.txt", first=True):
        found["*.trans.txt"] = lambda: Layout(lambda _text: _librispeech(folder))
    return found


def _sharded(manifest: Path, archives: list[Path]) -> Layout:
    """Return NeMo's layout: archives, and one manifest of what they hold."""
    return Layout(lambda _text: rows_in_shards(rows_of_file(manifest), archives), has_parts=True)


def _named(folder: Path, suffix: str, *, first: bool = False) -> list[Path]:
    """Return the files below a folder whose names have an ending, sorted; links lead nowhere."""
    found = []
    for above, folders, files in os.walk(folder):
        folders.sort()
        found += [Path(above, name) for name in sorted(files) if name.endswith(suffix)]
        if found and first:
            break
    return found


def _split(source: Source, files: Sequence[Source]) -> Layout:
    """Return a data set's only split, or the one for tests."""
    splits = splits_of([*files])
    if len(splits) > 1 and _TEST not in splits:
        shown = ", ".join([*splits][:6]) + (" ..." if len(splits) > 6 else "")
        msg = f"{source} holds several splits: {shown}\nName one of the files as the data."
        raise DataError(msg)
    return _parquets(splits.get(_TEST) or next(iter(splits.values())))


def _remote(source: Remote) -> Layout:
    """Return the layout of what lies in an object store: parquet files, or archives."""
    files = [each for each, _ in files_in(source)]
    tables = [each for each in files if each.suffix.lower() == PARQUET]
    archives = [each for each in files if each.suffix.lower() == TAR]
    if tables and archives:
        msg = f"{source} holds both *{PARQUET} and *{TAR}: name a folder with one of them"
        raise DataError(msg)
    if tables:
        return _split(source, tables)
    if archives:
        return _tars(archives)
    msg = (
        f"{source} holds neither *{PARQUET} nor *{TAR}, which are what is read from object stores\n"
        "Copy other data to this machine, and give its folder."
    )
    raise DataError(msg)


def _librispeech(root: Path) -> Iterator[Row]:
    for path in _named(root, ".trans.txt"):
        for where, line in lines_of(path):
            name, _, text = line.strip().partition(" ")
            audio_path = (path.parent / f"{name}.flac").relative_to(root).as_posix()
            fields = {"audio": audio_path, "text": text, "language": "en"}
            yield Row(where, root, {**fields, **_origin(name)})


def _origin(name: str) -> dict[str, str]:
    """Return speaker and chapter of a LibriSpeech id; a chapter is one recording session."""
    parts = _LIBRISPEECH_ID.fullmatch(name)
    return {"speaker": parts[1], "recording": parts[2]} if parts else {}
