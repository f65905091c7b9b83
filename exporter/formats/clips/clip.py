"""A clip as a list of data names it: what is known of it before its audio is opened."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from exporter.formats.audio.cutting import Excerpt


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar archive: its bytes, without the header.

    Attributes:
        name: The file's name in the archive.
        start: The first byte in the archive.
        size: The number of bytes.
        url: The archive, if it is remote.
    """

    name: str
    start: int
    size: int
    url: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """The audio of a row in a parquet file.

    Attributes:
        group: The row group.
        row: The row in the group.
        url: The parquet file, if it is remote.
    """

    group: int
    row: int
    url: str = ""


Part: TypeAlias = Excerpt | Member | Cell
"""What of a file is heard."""

_PARTS: dict[str, type[Part]] = {"excerpt": Excerpt, "member": Member, "cell": Cell}
_NAMES = {kind: name for name, kind in _PARTS.items()}


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording: its name in the data, its file, its reference text and language.

    `where` is the place of its text, for messages. `speaker` says who speaks, and `recording` which
    longer recording the clip was cut from, where the data tell. `duration_s` is what the data say,
    which is trusted, and 0 where they say nothing. `part` is what of the file at `path` is heard;
    None: all of it. `size_bytes` is that of the encoded audio, 0 where it is not known.
    """

    id: str
    path: Path
    text: str
    language: str | None = None
    duration_s: float = 0.0
    where: str = ""
    speaker: str | None = None
    recording: str | None = None
    part: Part | None = None
    size_bytes: int = field(default=0, compare=False)

    def to_row(self) -> list[Any]:
        """Return the clip as plain data for JSON."""
        known = [self.id, str(self.path), self.text, self.language, self.duration_s, self.where]
        known += [self.speaker, self.recording]
        if self.part is None:
            return [*known, None, self.size_bytes]
        kind = type(self.part)
        values = [getattr(self.part, name) for name in kind.__slots__]
        return [*known, [_NAMES[kind], *values], self.size_bytes]

    def anywhere(self) -> Clip:
        """Return the clip with the whole path of its file, for a process in another folder."""
        return replace(self, path=self.path.absolute())

    @classmethod
    def of_row(cls, row: list[Any]) -> Clip:
        """Return the clip that `to_row` gave."""
        name, path, text, language, duration_s, where, speaker, recording, part, size_bytes = row
        made = None if part is None else _PARTS[part[0]](*part[1:])
        origin = speaker, recording
        return cls(name, Path(path), text, language, duration_s, where, *origin, made, size_bytes)
