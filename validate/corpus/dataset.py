"""List the clips of a Hub dataset's parquet files; separate because it uses the network."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from exporter.errors import DataError
from exporter.formats.clips import Clip, chosen, clip_of
from exporter.formats.clips.readers.parquet import count_of, rows_of_parquet, suffix_of
from exporter.formats.clips.row import Row
from exporter.hub.download import list_repository
from exporter.recipe import Data
from exporter.system.progress import silent


def dataset_clips(data: Data) -> Iterator[Clip]:
    """List a sample of a dataset's split, whose files are downloaded; no audio is read.

    Args:
        data: Names the dataset, and how many of its rows to take. It must have a column `audio`
            ({bytes, path}) and one of the text columns.

    Yields:
        The clips in the dataset's order, with the durations that it names, or zero.

    Raises:
        HubError: The dataset cannot be downloaded.
        DataError: The split or a column is missing, or a file is damaged.
        MachineError: pyarrow is missing.
    """
    files = _download(data)
    places = chosen(sum(map(count_of, files)), data.max_clips, data.seed)
    wanted = places if isinstance(places, range) else frozenset(places)
    split = data.split or "test"
    for index, row in enumerate(_rows(files)):
        if index in wanted:
            name = f"{split}/{index:06}{suffix_of(row.id)}"
            yield clip_of(replace(row, id=name, where=f"dataset {data.dataset}, row {index}"))


def _download(data: Data) -> list[Path]:
    """Download a split's parquet files; the Hub has two layouts, flat names and folders."""
    split = re.escape(data.split or "test")
    config = f"(.*/)?{re.escape(data.config)}/(.*/)?" if data.config else "(.*/)?"
    pattern = re.compile(rf"{config}{split}([-./].*)?\.parquet")
    transfer = list_repository(str(data.dataset), data.revision, silent, repo_type="dataset")
    names = sorted(name for name in transfer.files if pattern.fullmatch(name))
    if not names:
        msg = (
            f"dataset {data.dataset}: no parquet files of config {data.config or '(any)'}, "
            f"split {data.split or 'test'}.\nTry `revision: refs/convert/parquet`."
        )
        raise DataError(msg)
    return [transfer.bring(name) for name in names]


def _rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        yield from rows_of_parquet(file, text=True)
