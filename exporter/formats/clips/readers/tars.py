"""Tar shards: WebDataset's, and NeMo's with their manifest.

Only headers are read, and small files of text; audio is later read from its place in the archive,
so that no name in an archive ever becomes a path on this machine.

Sources: https://github.com/webdataset/webdataset (the format), and NeMo's
`convert_to_tarred_audio_dataset.py`.
"""

from __future__ import annotations

import codecs
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from exporter.errors import DataError
from exporter.formats.clips import remote
from exporter.formats.clips.addresses import Remote
from exporter.formats.clips.clip import Member
from exporter.formats.clips.row import Place, Row

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
AUDIO = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au"})
_MOST_HEADER = 1 << 20
_MOST_TEXT = 1 << 20
_SHARD = re.compile(r"(\d+)\.tar")


def require_plain(name: str) -> None:
    """Raise DataError for a compressed archive, whose files cannot be read one by one."""
    if name.lower().endswith(COMPRESSED):
        msg = (
            f"{name} is compressed as a whole, so that no clip can be read alone: unpack it to a "
            ".tar\n(audio in it is compressed already)"
        )
        raise DataError(msg)


@dataclass(frozen=True, slots=True)
class _File:
    """A regular file in an archive."""

    name: str
    start: int
    size: int


class _Headers:
    """A stream of which no more than a header may be read at once, whatever one claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            msg = "a header longer than 1 MiB"
            raise tarfile.ReadError(msg)
        return self._stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _opened(archive: Path | Remote) -> Iterator[IO[bytes]]:
    if isinstance(archive, Remote):
        with remote.opened(archive) as stream:
            yield stream
        return
    try:
        with archive.open("rb") as stream:
            yield stream
    except (OSError, ValueError) as error:
        msg = f"{archive} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DataError(msg) from error


def _files(archive: Path | Remote, stream: IO[bytes]) -> Iterator[_File]:
    """Yield the regular files of an archive, from their headers.

    Raises:
        DataError: It is no tar archive, is damaged or cut off, or holds a sparse file.
    """
    end = stream.seek(0, 2)
    stream.seek(0)
    last = ""
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _Headers(stream)), mode="r:") as read:
            while (each := read.next()) is not None:
                vars(read)["members"].clear()  # else it keeps every header
                last = each.name
                if not each.isreg():
                    continue
                if each.sparse is not None:
                    msg = f"{archive}: {each.name[:200]!r} is a sparse file, which is not read"
                    raise DataError(msg)
                if each.offset_data + each.size > end:
                    msg = f"{archive}: cut off inside {each.name[:200]!r}: copy it again"
                    raise DataError(msg)
                yield _File(each.name, each.offset_data, each.size)
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError) as error:
        place = f" after {last[:200]!r}" if last else ""
        msg = f"{archive} cannot be read as a tar archive{place} ({error}): copy it again"
        raise DataError(msg) from error


def rows_of_tar(archive: Path | Remote, *, text: bool) -> Iterator[Row]:
    """Yield the samples of a WebDataset archive: neighbours whose names differ by what follows `.`.

    A sample is `KEY.flac` (or another format) and `KEY.json` or `KEY.txt`, or both.

    Args:
        archive: The archive.
        text: Whether each sample needs a text.

    Raises:
        DataError: The archive is damaged, or a sample lacks audio or text.
    """
    with _opened(archive) as stream:
        found: dict[str, _File] = {}
        key = None
        for file in _files(archive, stream):
            stem, suffix = _split(file.name)
            if stem != key and found:
                yield from _sample(archive, stream, str(key), found, text=text)
                found = {}
            key = stem
            if suffix in found:
                msg = f"{archive}: {file.name[:200]!r} is listed twice; each clip must count once"
                raise DataError(msg)
            found[suffix] = file
        if found:
            yield from _sample(archive, stream, str(key), found, text=text)


def _split(name: str) -> tuple[str, str]:
    """Return what comes before the first dot of a file's name, with its folder, and the rest."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _sample(
    archive: Path | Remote, stream: IO[bytes], key: str, found: Mapping[str, _File], *, text: bool
) -> Iterator[Row]:
    where = f"{archive}: {key[:200]}"
    sounds = [suffix for suffix in found if f".{suffix.rpartition('.')[2]}" in AUDIO]
    if not sounds:
        if text and {".json", ".txt"} & {*found}:
            msg = f"{where} has no audio, but {', '.join(sorted(found))[:80]}"
            raise DataError(msg)
        return
    if len(sounds) > 1:
        msg = f"{where} has several sounds: {', '.join(sorted(sounds))[:80]}"
        raise DataError(msg)
    fields = _fields(where, stream, found)
    name = f"{archive.name}/{key}{sounds[0]}"
    yield Row(where, _folder(archive), fields, name, place=_place(archive, found[sounds[0]]))


def _folder(archive: Path | Remote) -> Path:
    return Path() if isinstance(archive, Remote) else archive.parent


def _place(archive: Path | Remote, file: _File) -> Place:
    url = archive.url if isinstance(archive, Remote) else ""
    path = Path(archive.name) if isinstance(archive, Remote) else archive
    return Place(path, Member(file.name, file.start, file.size, url), file.size)


def _fields(where: str, stream: IO[bytes], found: Mapping[str, _File]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if ".json" in found:
        try:
            fields = json.loads(_text(where, stream, found[".json"]))
        except (ValueError, RecursionError) as error:
            msg = f"{where}.json: not JSON ({error})"
            raise DataError(msg) from error
        if not isinstance(fields, dict):
            msg = f"{where}.json: expected an object, not {type(fields).__name__}"
            raise DataError(msg)
    if ".txt" in found:
        fields = {**fields, "text": _text(where, stream, found[".txt"]).strip()}
    return fields


def _text(where: str, stream: IO[bytes], file: _File) -> str:
    suffix = _split(file.name)[1]
    if file.size > _MOST_TEXT:
        msg = f"{where}{suffix}: larger than {_MOST_TEXT >> 20} MiB"
        raise DataError(msg)
    stream.seek(file.start)
    try:
        return stream.read(file.size).removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        msg = f"{where}{suffix}: cannot be read as UTF-8 text ({error})"
        raise DataError(msg) from error


def rows_in_shards(rows: Iterator[Row], archives: list[Path]) -> Iterator[Row]:
    """Yield the rows of a NeMo manifest with the places of their audio in numbered archives.

    `shard_id` names the archive by the number at the end of its name, as `audio_7.tar`.

    Args:
        rows: The manifest's rows.
        archives: The archives.

    Raises:
        DataError: A row names no archive that is there, or no file in it.
    """
    shards = {int(found[1]): path for path in archives if (found := _SHARD.search(path.name))}
    places: Callable[[Path], Mapping[str, _File]] = lru_cache(maxsize=64)(_by_name)
    for row in rows:
        name, shard = row.fields.get("audio_filepath"), row.fields.get("shard_id")
        if isinstance(shard, bool) or not isinstance(shard, int) or shard not in shards:
            msg = f"{row.where}: shard_id {shard!r:.40} is the number of no archive there"
            raise DataError(msg)
        if not isinstance(name, str) or name not in places(shards[shard]):
            msg = f"{row.where}: {shards[shard].name} has no file {name!r:.200}"
            raise DataError(msg)
        place = _place(shards[shard], places(shards[shard])[name])
        yield replace(row, id=f"{shards[shard].name}/{name}", place=place)


def rows_of_cuts(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows; of cuts whose audio is in an archive of Shar, with its place there.

    Raises:
        DataError: An archive lacks a cut's audio.
    """
    places: Callable[[Path], Mapping[str, _File]] = lru_cache(maxsize=4)(_by_name)
    for row in rows:
        if row.place is None or row.place.path.suffix != SUFFIX:
            yield row
            continue
        archive = row.place.path
        names = (f"{row.id}{suffix}" for suffix in AUDIO)
        found = next((name for name in names if name in places(archive)), None)
        if found is None:
            msg = f"{row.where}: {archive.name} has no audio of {row.id[:200]!r}"
            raise DataError(msg)
        yield replace(row, place=_place(archive, places(archive)[found]))


def _by_name(archive: Path) -> dict[str, _File]:
    with _opened(archive) as stream:
        return {file.name: file for file in _files(archive, stream)}
