"""Open the audio of clips, wherever it is: in a file, a part of one, an archive or a table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from exporter.errors import DataError
from exporter.formats.audio.cutting import Excerpt, cut_out, is_whole
from exporter.formats.clips import remote
from exporter.formats.clips.addresses import Remote
from exporter.formats.clips.clip import Cell, Clip, Member
from exporter.formats.clips.kept import keep
from exporter.formats.clips.readers.parquet import Sounds, suffix_of
from exporter.system.files import readable_name, sha256_file

_MOST_BYTES = 4 << 30  # as of any recording in memory


class Opener:
    """Opens clips, and keeps open what the next one may be in; a context manager."""

    def __init__(self) -> None:
        self._table: Sounds | None = None
        self._sha256 = lru_cache(maxsize=16)(sha256_file)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close what is open."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def open(self, clip: Clip) -> Path | bytes:
        """Return a clip's audio: the path of a file, or the bytes of one.

        Raises:
            DataError: It is not there, or cannot be read; the message begins with the clip's place.
        """
        try:
            return self._open(clip)
        except DataError as error:
            raise told(clip, error) from error

    def staged(self, clip: Clip, folder: Path, name: str) -> tuple[Clip, str]:
        """Return a clip whose audio is a file of its own, which is written if it is none yet.

        The other value is a hash of the encoded audio: see `sha256`.

        Args:
            clip: The clip.
            folder: Where to write it.
            name: The file's name there, without a suffix.

        Raises:
            DataError: As `open` raises it.
        """
        audio = self.open(clip)
        try:
            sha256 = self.sha256(clip, audio)
        except OSError as error:  # the file is missing, or no file
            msg = f"audio file {readable_name(str(clip.path))[:300]}: {error.strerror}"
            raise told(clip, DataError(msg)) from error
        if isinstance(audio, Path):
            return replace(clip, path=audio, part=None), sha256
        path = folder / f"{name}{_suffix(clip)}"
        path.unlink(missing_ok=True)  # of an earlier run: nothing is written through it
        with path.open("xb") as stream:
            stream.write(audio)
        return replace(clip, path=path, part=None), sha256

    def kept(self, clip: Clip) -> Path:
        """Return the file of a clip's audio; one that it has not of its own is kept in the cache.

        Raises:
            DataError: As `open` raises it.
        """
        audio = self.open(clip)
        if isinstance(audio, Path):
            return audio
        return keep(audio, _suffix(clip))

    def sha256(self, clip: Clip, audio: Path | bytes) -> str:
        """Return a hash of a clip's encoded audio; of a part of a file, also of where it is.

        Args:
            clip: The clip.
            audio: What `open` returned for it.
        """
        if isinstance(audio, Path):
            return sha256_file(audio)
        if isinstance(clip.part, Excerpt):
            part = clip.part
            where = f" {part.start_s!r} {part.duration_s!r} {part.channel!r}"
            return hashlib.sha256((self._sha256(clip.path) + where).encode()).hexdigest()
        return hashlib.sha256(audio).hexdigest()

    def _open(self, clip: Clip) -> Path | bytes:
        part = clip.part
        if isinstance(part, Excerpt):
            return clip.path if is_whole(clip.path, part) else cut_out(clip.path, part)
        if isinstance(part, Member):
            return _member(clip.path, part)
        if isinstance(part, Cell):
            return self._cell(clip.path, part)
        return clip.path

    def _cell(self, path: Path, cell: Cell) -> Path | bytes:
        file = Remote(cell.url) if cell.url else path
        if self._table is None or self._table.file != file:
            self.__exit__()
            self._table = Sounds(file)
        sound = self._table[cell]
        encoded = sound.get("bytes") if isinstance(sound, Mapping) else None
        if isinstance(encoded, bytes) and encoded:
            return encoded
        given = sound.get("path") if isinstance(sound, Mapping) else None
        if isinstance(given, str) and given and encoded is None and not cell.url:
            beside = path.parent / given
            if beside.is_file():
                return beside
        msg = "no audio bytes in this row"
        raise DataError(msg)


def told(clip: Clip, error: DataError) -> DataError:
    """Return an error of a clip's audio that names the clip's place in the data."""
    if not clip.where or str(error).startswith(f"{clip.where}: "):
        return error
    return DataError(f"{clip.where}: {error}")


def _suffix(clip: Clip) -> str:
    if isinstance(clip.part, Excerpt):
        return ".wav"
    return suffix_of(clip.part.name if isinstance(clip.part, Member) else clip.id)


def _member(path: Path, part: Member) -> bytes:
    archive: Any = Remote(part.url) if part.url else path
    if part.size > _MOST_BYTES:
        msg = f"{part.name[:200]!r} is longer than {_MOST_BYTES >> 30} GiB: cut it"
        raise DataError(msg)
    if not part.size:
        msg = f"{part.name[:200]!r} is empty: 0 bytes"
        raise DataError(msg)
    if part.url:
        with remote.opened(archive) as stream:
            stream.seek(part.start)
            found = stream.read(part.size)
    else:
        found = _bytes_at(path, part)
    if len(found) < part.size:
        msg = f"{archive} ends inside {part.name[:200]!r}: it was changed"
        raise DataError(msg)
    return found


def _bytes_at(path: Path, part: Member) -> bytes:
    try:
        with path.open("rb") as stream:
            return os.pread(stream.fileno(), part.size, part.start)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise DataError(msg) from error
