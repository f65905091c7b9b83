"""A list of clips on disk, from which work is planned before any audio is opened."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from exporter.formats.clips.clip import Clip
from exporter.formats.clips.row_file import RowFile

_UNKNOWN = -1


class ClipList:
    """Clips on disk; of each, 28 bytes are in memory, which is what plans need.

    Attributes:
        rows: The file; `Clip.of_row` reads its rows.
        durations_s: Seconds of each clip as the data name them; 0: not known.
        sizes: Bytes of each clip's encoded audio; 0: not known.
        speakers: The number of each clip's speaker, in the order of their first clips; -1: none is
            named.
    """

    def __init__(self, path: Path, clips: Iterable[Clip]) -> None:
        """Write clips to a new file."""
        self.rows = RowFile(path)
        self.durations_s, self.sizes, self.speakers = array("d"), array("q"), array("i")
        numbers: dict[str, int] = {}
        with self.rows.writing() as write:
            for clip in clips:
                write(clip.to_row())
                self.durations_s.append(clip.duration_s)
                self.sizes.append(clip.size_bytes)
                name = clip.speaker
                number = _UNKNOWN if name is None else numbers.setdefault(name, len(numbers))
                self.speakers.append(number)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.rows)

    def __getitem__(self, place: int) -> Clip:
        """Return a clip."""
        return Clip.of_row(self.rows[place])

    def __iter__(self) -> Iterator[Clip]:
        """Iterate over the clips, in their order."""
        return map(Clip.of_row, self.rows)
