"""A row of a data set, as a reader finds it: not yet checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.formats.clips.clip import Part


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's audio is, for readers that know it: a file, what of it, and its bytes."""

    path: Path
    part: Part | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        where: File and line, for messages.
        base: The folder that paths are relative to.
        fields: The values by name.
        id: The clip's name in the data; empty for the path.
        text_where: File and line of the text, if it is in another file.
        place: Where the audio is; None: at the path that the fields name.
    """

    where: str
    base: Path
    fields: Mapping[str, Any]
    id: str = ""
    text_where: str = ""
    place: Place | None = None
