"""The recordings that a command is given: files, folders of files, and lists of data.

Lists of millions are kept on disk, so that memory does not follow their length.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Self

from exporter.artifact.lookup import AUDIO_SUFFIXES, is_audio
from exporter.errors import DataError, RecipeError
from exporter.formats.clips import list_clips
from exporter.formats.clips.addresses import Remote, source_at
from exporter.formats.clips.clip import Cell, Clip, Member
from exporter.formats.clips.names import Seen
from exporter.formats.clips.readers.layouts import Source, UnknownLayout, is_list, layout_of
from exporter.formats.clips.row_file import rows_from
from exporter.system.files import readable_name

_IN_MEMORY = 10_000  # recordings
_LONGEST = 200  # bytes of a name; file systems take 255 with a suffix


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, and the name of its result, without a suffix, in a folder of results."""

    clip: Clip
    result: PurePath

    @property
    def name(self) -> str:
        """What messages and JSON call it: the path of a file; of what is none, its name."""
        clip = self.clip
        return readable_name(str(clip.path)) if clip.part is None else clip.id

    @property
    def is_remote(self) -> bool:
        """Whether its audio is in an object store."""
        return isinstance(self.clip.part, Member | Cell) and bool(self.clip.part.url)


class Recordings:
    """Recordings in their order: in memory, or from `_IN_MEMORY` on in a file.

    Attributes:
        audio_s: Seconds of all, as far as the data name them.
        untimed: Those whose seconds are not known.
        size_bytes: Bytes of encoded audio of all, as far as they are known.
        unsized: Those whose bytes are not known.
        remote: Those in an object store.
    """

    def __init__(self, scratch: Callable[[], Path] | None = None) -> None:
        """Begin a list; `scratch` makes a folder for the file of a long one."""
        self._scratch = scratch
        self._rows: list[list[Any]] = []
        self._path: Path | None = None
        self._count = 0
        self.audio_s, self.untimed, self.size_bytes, self.unsized, self.remote = 0.0, 0, 0, 0, 0

    def add(self, recording: Recording) -> None:
        """Add a recording at the end."""
        clip = recording.clip
        self._rows.append([*clip.to_row(), str(recording.result)])
        self._count += 1
        self.audio_s += clip.duration_s
        self.untimed += not clip.duration_s
        self.size_bytes += clip.size_bytes
        self.unsized += not clip.size_bytes
        self.remote += recording.is_remote
        if len(self._rows) >= _IN_MEMORY and self._scratch is not None:
            self._path = self._path or self._scratch() / "recordings.jsonl"
            with self._path.open("a", encoding="utf-8", errors="surrogatepass") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in self._rows)
            self._rows.clear()

    def __len__(self) -> int:
        """Return the number of recordings."""
        return self._count

    def __iter__(self) -> Iterator[Recording]:
        """Iterate over them."""
        stored = rows_from(self._path) if self._path else ()
        for row in chain(stored, self._rows):
            yield Recording(Clip.of_row(row[:-1]), PurePath(row[-1]))

    def to_data(self) -> dict[str, Any]:
        """Return the list as data for another process, which reads the file too."""
        known = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        path = str(self._path) if self._path else None
        return {"rows": self._rows, "path": path, "count": self._count, **known}

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> Self:
        """Return the list that `to_data` gave."""
        known = cls()
        known._rows, known._count = data["rows"], data["count"]
        known._path = Path(data["path"]) if data["path"] else None
        for name in ("audio_s", "untimed", "size_bytes", "unsized", "remote"):
            setattr(known, name, data[name])
        return known


def recordings_of(given: Sequence[str]) -> Iterator[Recording]:
    """Yield the recordings that arguments name, in their order.

    Args:
        given: Files; folders, of which all files that are named like audio are taken, at any
            depth, sorted, unless a list there names parts of files; lists of data, by their
            names' ends; and addresses in an object store.

    Raises:
        RecipeError: The only argument is a folder without audio.
        DataError: A row of a list is bad.
    """
    for each in given:
        yield from _recordings(source_at(Path(), each), alone=len(given) == 1)


def distinct(recordings: Iterable[Recording], given: Sequence[str]) -> Iterator[Recording]:
    """Yield recordings, none of which has the result of one before it.

    Args:
        recordings: The recordings.
        given: The arguments that name them, to find the other one again.

    Raises:
        RecipeError: Two would have the same result.
    """
    seen = Seen()
    for each in recordings:
        if not seen.add(str(each.result)):
            other = next(one for one in recordings_of(given) if one.result == each.result)
            msg = (
                f"{other.name} and {each.name} would both write {each.result}: transcribe them "
                "apart"
            )
            raise RecipeError(msg)
        yield each


def _recordings(given: Source, *, alone: bool) -> Iterator[Recording]:
    if isinstance(given, Remote) or is_list(given):
        yield from _listed(given)
    elif _is_folder(given):
        yield from _in_folder(given, alone=alone)
    else:
        yield _file(given, PurePath(given.stem))


def _in_folder(folder: Path, *, alone: bool) -> Iterator[Recording]:
    layout, problem = None, None
    try:
        layout = layout_of(folder)
    except DataError as error:
        problem = error
    found = iter(()) if layout and layout.has_parts else _audio_below(folder)
    first = next(found, None)
    if first is not None:
        for path in chain([first], found):
            yield _file(path, path.relative_to(folder).with_suffix(""))
    elif layout:
        yield from _listed(folder)
    elif problem and not isinstance(problem, UnknownLayout):
        raise problem
    elif alone:
        msg = f"{folder} is a folder without audio: name audio files"
        raise RecipeError(msg)
    else:
        yield _file(folder, PurePath(folder.stem))  # told when it is read


def _audio_below(folder: Path) -> Iterator[Path]:
    """Yield the files that are named like audio, sorted; of one folder, names are in memory."""
    try:
        with os.scandir(folder) as entries:
            names = sorted((each.name, each.is_dir(follow_symlinks=False)) for each in entries)
    except OSError:  # it may not be read
        return
    for name, is_folder in names:
        if is_folder:
            yield from _audio_below(folder / name)
        elif is_audio(folder / name):
            yield folder / name


def _file(path: Path, result: PurePath) -> Recording:
    try:
        size = path.stat().st_size
    except (OSError, ValueError):  # which is told when it is read
        size = 0
    return Recording(Clip(readable_name(str(path)), path, "", size_bytes=size), result)


def _listed(source: Source) -> Iterator[Recording]:
    for clip in list_clips(source, text=False, present=False):
        yield Recording(clip, _result(clip))


def _result(clip: Clip) -> PurePath:
    """Return the name of a clip's result: its own, if that stays inside a folder."""
    name = PurePath(clip.id)
    if name.is_absolute() or ".." in name.parts or not name.name:
        name = PurePath(clip.path.name)
    if name.suffix.lower() in AUDIO_SUFFIXES:
        name = name.with_suffix("")
    return PurePath(*map(_short, name.parts))


def _short(name: str) -> str:
    """Return a name that file systems take; a longer one is cut, and ends with its hash."""
    encoded = name.encode(errors="surrogatepass")
    if len(encoded) <= _LONGEST:
        return name
    head = encoded[: _LONGEST // 2].decode(errors="ignore")
    return f"{head}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have, which reading tells
        return False
