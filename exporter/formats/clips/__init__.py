"""Clips: recordings with their reference text, from common layouts of data sets.

Every reader of `readers` yields rows; one function turns a row into a clip, so that each mistake is
reported with file and line before any model is opened. No audio is opened, so that a plan of a
million clips costs the reading of their list.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from exporter.errors import DataError
from exporter.formats.audio.cutting import Excerpt
from exporter.formats.clips.clip import Clip as Clip  # re-exported for importers
from exporter.formats.clips.fields import language_of, origin_of, path_of, seconds, text_of
from exporter.formats.clips.names import Seen
from exporter.formats.clips.readers.layouts import Source, rows_of
from exporter.formats.clips.row import Place, Row
from exporter.system.files import readable_name


def list_clips(source: Source, *, text: bool = True, present: bool = True) -> Iterator[Clip]:
    """Yield the clips of a folder (see `readers`), a manifest, or an address in an object store.

    Rows are checked one at a time, and no audio is opened: durations are those that the data name,
    or zero.

    Args:
        source: The folder, file or address.
        text: Whether each clip needs a text.
        present: Whether each file must be there; else its absence is told when it is opened.

    Yields:
        The clips in the data's order.

    Raises:
        DataError: For the first bad row, naming file and line.
        MachineError: pyarrow is missing, which parquet files and object stores need.
    """
    listed = Seen()
    for row in rows_of(source, text=text):
        clip = clip_of(row, text=text)
        if not listed.add(clip.id):
            msg = f"{row.where}: {clip.id} is listed twice; each clip must count once"
            raise DataError(msg)
        yield _found(row.where, clip, present=present)


def chosen(count: int, most: int | None, seed: int) -> Sequence[int]:
    """Return the sorted indices of `most` of `count` clips, or of all if `most` is None.

    They are drawn at random, because the first clips may all be one speaker's.
    """
    if most is None or most >= count:
        return range(count)
    return sorted(random.Random(seed).sample(range(count), most))


def clip_of(row: Row, *, text: bool = True) -> Clip:
    """Return the clip of a row; its audio is opened later.

    Args:
        row: The row.
        text: Whether it needs a text.

    Raises:
        DataError: The row is bad.
    """
    where, fields = row.where, row.fields
    place = row.place or _place(row)
    known_s = seconds(where, "duration", fields.get("duration"))
    language = language_of(where, fields)
    speaker, recording = origin_of(where, fields)
    text_where = row.text_where or where
    spoken = text_of(text_where, fields, required=text)
    name = row.id or _id(row, place)
    if isinstance(place.part, Excerpt) and recording is None:
        recording = readable_name(place.path.name)
    return Clip(
        readable_name(name),
        place.path,
        spoken,
        language,
        known_s or 0.0,
        text_where,
        speaker,
        recording,
        place.part,
        place.size_bytes,
    )


def _place(row: Row) -> Place:
    """Return where the audio is that a row names by its path, and by a part of it."""
    where, fields = row.where, row.fields
    path = row.base / path_of(where, fields)
    start_s = seconds(where, "offset", fields.get("offset"))
    if start_s is None:
        return Place(path)
    duration_s = seconds(where, "duration", fields.get("duration"))
    return Place(path, Excerpt(start_s, duration_s or None))


def _id(row: Row, place: Place) -> str:
    """Return the name of a clip that has none: its path, and where in the file it begins.

    Ids are published in reports, so they must not contain paths of this machine.
    """
    name = path_of(row.where, row.fields)
    known = name if not Path(name).is_absolute() else place.path.name
    if isinstance(place.part, Excerpt) and place.part.start_s > 0:
        path = PurePath(known)
        known = str(
            path.with_name(f"{path.stem}-{round(1000 * place.part.start_s):09}{path.suffix}")
        )
    return known


def _found(where: str, clip: Clip, *, present: bool) -> Clip:
    """Return a clip whose file is there; with its size, if the clip is all of it."""
    if not isinstance(clip.part, Excerpt | None):
        return clip  # its archive or table is open
    try:
        if clip.path.is_file():
            size = 0 if clip.part else clip.path.stat().st_size
            return replace(clip, size_bytes=size)
        reason = "does not exist or is not a regular file"
    except (OSError, ValueError) as error:  # the name is too long, or the folder not readable
        reason = f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    if not present:
        return clip
    msg = f"{where}: audio file {readable_name(str(clip.path))[:300]} {reason}"
    raise DataError(msg)
