"""Read clips from a Hub dataset's parquet files; separate because it uses the network.

`datasets` is not used: it would bring its own pins of the Hub client and of an audio decoder.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.errors import DataError, exhausted, needing
from exporter.formats.clips import (
    LANGUAGE_NAMES,
    RECORDING_NAMES,
    SPEAKER_NAMES,
    TEXT_NAMES,
    Clip,
    chosen,
    origin_of,
)
from exporter.hub.download import list_repository
from exporter.recipe import Data
from exporter.system import user_dirs
from exporter.system.files import make_folder
from exporter.system.progress import silent

_NAMES = re.compile(r"(large_)?string|u?int\d+")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


def dataset_clips(data: Data) -> Iterator[Clip]:
    """Extract a sample of a dataset's split into the local cache, one audio file at a time.

    Args:
        data: Names the dataset, and how many of its rows to take. It must have a column `audio`
            ({bytes, path}) and one of the text columns.

    Yields:
        The clips in the dataset's order, with durations of zero.

    Raises:
        HubError: The dataset cannot be downloaded.
        DataError: The split or a column is missing, or a file is damaged.
        MachineError: pyarrow is missing.
    """
    with needing("datasets"):
        parquet: Any = import_module("pyarrow.parquet")
    try:
        files = [parquet.ParquetFile(path) for path in _download(data)]
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        msg = f"dataset {data.dataset}: a parquet file cannot be read ({error})"
        raise DataError(msg) from error
    total = sum(file.metadata.num_rows for file in files)
    places = chosen(total, data.max_clips, data.seed)
    wanted = places if isinstance(places, range) else frozenset(places)
    folder = _cache() / hashlib.sha256(data.model_dump_json().encode()).hexdigest()[:16]
    make_folder(folder, 0o700)
    for index, row in enumerate(_rows(files, str(data.dataset))):
        if index in wanted:
            yield _clip(folder, index, row, data)


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


def _rows(files: list[Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows; only a batch of 16 is in memory at a time."""
    for file in files:
        columns = file.schema_arrow.names
        text = next((column for column in TEXT_NAMES if column in columns), None)
        if text is None or "audio" not in columns:
            msg = f"dataset {name}: needs `audio` and one of {', '.join(TEXT_NAMES)}; has {columns}"
            raise DataError(msg)
        language = next((column for column in LANGUAGE_NAMES if column in columns), None)
        wanted = ["audio", text, *([language] if language else [])]
        wanted += _origin_columns(file.schema_arrow)
        batches = file.iter_batches(batch_size=16, columns=wanted)
        while rows := _next_rows(batches, name):
            for row in rows:
                spoken = row[language] if language else None
                yield {**row, "text": row[text], "language": spoken}


def _origin_columns(schema: Any) -> list[str]:
    """Return the columns that name speakers and recordings; other types name something else."""
    named = (field.name for field in schema if _NAMES.fullmatch(str(field.type)))
    return sorted({*SPEAKER_NAMES, *RECORDING_NAMES} & {*named})


def _next_rows(batches: Iterator[Any], name: str) -> list[dict[str, Any]]:
    """Return the rows of the next batch that has any; none at the end."""
    try:
        return next((rows for batch in batches if (rows := batch.to_pylist())), [])
    except (ValueError, OSError) as error:  # pages are read, and checked, only here
        if exhausted(error):
            raise
        msg = f"dataset {name}: a parquet file cannot be read ({error})"
        raise DataError(msg) from error


def _clip(folder: Path, index: int, row: dict[str, Any], data: Data) -> Clip:
    sound, text, where = row["audio"], row["text"], f"dataset {data.dataset}, row {index}"
    encoded = sound.get("bytes") if isinstance(sound, dict) else None
    if not isinstance(encoded, bytes) or not encoded or not isinstance(text, str):
        msg = f"{where}: no audio bytes, or no text"
        raise DataError(msg)
    suffix = PurePosixPath(str(sound.get("path") or "clip.wav")).suffix
    path = folder / f"{index:06}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    path.unlink(missing_ok=True)  # of an earlier run; whatever it is, nothing is written through it
    with path.open("xb") as stream:
        stream.write(encoded)
    language = row["language"]
    if not isinstance(language, str | None):
        msg = f"{where}: its language must be a string, not {language!r:.40}"
        raise DataError(msg)
    spoken = (language or "").strip() or None
    name, origin = f"{data.split or 'test'}/{path.name}", origin_of(where, row)
    return Clip(name, path, text, spoken, 0.0, where, *origin)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or user_dirs.home() / ".cache"
    return Path(home) / "exporter" / "clips"
