"""The clips that data name: listed on disk, before any of their audio is opened."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import DataError
from exporter.formats.clips import Clip, chosen, list_clips
from exporter.formats.clips.addresses import source_at
from exporter.formats.clips.row_file import RowFile
from exporter.recipe import Data
from exporter.validate.corpus.dataset import dataset_clips


@dataclass(frozen=True)
class Listed:
    """The clips that data name, in the data's order.

    Attributes:
        source: What the data are called in messages.
        rows: A row for each clip that is there; `Clip.of_row` reads it.
        places: The rows of the clips to use, ascending.
    """

    source: str
    rows: RowFile
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Clip:
        return Clip.of_row(self.rows[self.places[place]])

    def some(self, places: Iterable[int]) -> Iterator[Clip]:
        """Yield clips by their indices; fastest in the data's order."""
        return map(Clip.of_row, self.rows.some(self.places[place] for place in places))

    def __iter__(self) -> Iterator[Clip]:
        if len(self) == len(self.rows):
            return map(Clip.of_row, self.rows)
        return self.some(range(len(self)))


def list_data(data: Data, base: Path, place: Path, *, present: bool = True) -> Listed:
    """List the clips of a folder, a manifest, an object store or a dataset; check every row.

    Args:
        data: The `data` section of a recipe.
        base: The folder to which a path in `data` is relative.
        place: The file for the list, which must be new.
        present: Whether each file must be there; else its absence is told when it is opened.

    Raises:
        DataError: A row is bad, or a file is missing that must be there.
        HubError: A dataset cannot be downloaded.
        MachineError: pyarrow is missing, which a dataset needs.
    """
    source = source_at(base, data.clips) if data.clips else None
    rows = RowFile(place)
    with rows.writing() as write:
        for clip in list_clips(source, present=present) if source else dataset_clips(data):
            write(clip.to_row())
    if not len(rows):
        msg = f"{source or data.dataset} lists no clips"
        raise DataError(msg)
    most = data.max_clips if source else None  # a dataset gives no more
    return Listed(str(source or data.dataset), rows, chosen(len(rows), most, data.seed))
