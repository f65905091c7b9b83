"""The index of a corpus: each clip is opened and hashed once in a run, its row written to disk.

Of a clip, the offset of its row, its duration and a hash of its sound stay in memory: 24 bytes; of
one that is listed and not heard, the offset alone.
"""

import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import DataError
from exporter.formats import audio
from exporter.formats.clips import Clip, chosen, list_clips
from exporter.recipe import Data
from exporter.system.files import sha256_file
from exporter.system.progress import Progress
from exporter.validate.corpus.dataset import dataset_clips
from exporter.validate.corpus.order import order_of

_TELL_EVERY = 100


class RowFile:
    """A file of JSON lines with random access: rows are written once, in order.

    Only the rows' byte offsets are held in memory, 8 bytes each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("q")
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of the bytes written so far."""
        return self._hash.hexdigest()

    @contextmanager
    def writing(self) -> Iterator[Callable[[object], None]]:
        """Open the file, which must be new or ours, and yield the function that appends a row."""
        with self.path.open("ab" if self.offsets else "xb") as stream:

            def write(row: object) -> None:
                text = json.dumps(row, ensure_ascii=False) + "\n"
                line = text.encode(errors="surrogatepass")  # paths need not be UTF-8
                self.offsets.append(stream.tell())
                self._hash.update(line)
                stream.write(line)

            yield write

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Any:
        return next(rows_from(self.path, self.offsets[index]))

    def __iter__(self) -> Iterator[Any]:
        return rows_from(self.path)


def rows_from(path: Path, offset: int = 0) -> Iterator[Any]:
    """Yield the rows of a file of JSON lines, from the one that begins at `offset` bytes."""
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            yield json.loads(line)


def _row(clip: Clip, sound: str = "") -> list[object]:
    known = [clip.id, str(clip.path), clip.text, clip.language, clip.duration_s, clip.where]
    return [sound, *known, clip.speaker, clip.recording]


def clip_of(row: list[Any]) -> Clip:
    """Return the clip that a row of a corpus' index describes."""
    _, name, path, *others = row
    return Clip(name, Path(path), *others)


def sound_of(row: list[Any]) -> str:
    """Return the sha256 of the sound of a row's clip; empty if it was only listed."""
    return str(row[0])


@dataclass(frozen=True)
class Listed:
    """The clips that data name, in the data's order, before any of their audio is opened.

    Attributes:
        rows: A row for each clip that is there.
        places: The rows of the clips to use, ascending.
    """

    rows: RowFile
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Clip:
        return clip_of(self.rows[self.places[place]])

    def __iter__(self) -> Iterator[Clip]:
        if len(self) == len(self.rows):
            return map(clip_of, self.rows)
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True)
class Corpus:
    """The clips of one run, in order; of clips that are heard look by look, those up to a look.

    Attributes:
        index: One row a clip; `clip_of` reads it. There may be further ones.
        durations_s: Seconds of each clip, float64 [clips].
        sha256: Over every clip's name, audio bytes, text and language, in order; and over its
            speaker and recording, if it names either.
        languages: The languages named by all listed clips; contains None if some name none.
        sounds: A number for each clip's sound, the same for copies, int64 [clips].
    """

    index: RowFile
    durations_s: NDArray[np.float64]
    sha256: str
    languages: frozenset[str | None]
    sounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.durations_s)

    def __getitem__(self, place: int) -> Clip:
        return clip_of(self.index[place])

    def __iter__(self) -> Iterator[Clip]:
        return map(clip_of, islice(self.index, len(self)))

    def sample(self, count: int, seed: int) -> list[int]:
        """Choose a sample of clips stratified by duration: every n-th in order of duration.

        Args:
            count: Size of the sample; all clips if the corpus has no more.
            seed: Determines the offset of the first clip.

        Returns:
            The clips' indices in the corpus, ascending.
        """
        if count >= len(self):
            return list(range(len(self)))
        steps = random.Random(seed).random() + np.arange(count)
        places = (steps * len(self) / count).astype(np.int64)
        return sorted(self._by_duration()[places].tolist())

    def typical(self) -> tuple[int, int, int]:
        """Return the indices of the shortest, the median and the longest clip."""
        order = self._by_duration()
        return int(order[0]), int(order[len(order) // 2]), int(order[-1])

    def _by_duration(self) -> NDArray[np.intp]:
        return np.argsort(self.durations_s, kind="stable")

    def parts(self, count: int, batch_size: int, start: int = 0) -> list[range]:
        """Split the corpus at batch boundaries into parts with about equal durations of audio.

        Args:
            count: Maximum number of parts; none of them is empty.
            batch_size: Clips in a batch; batches do not depend on the number of parts.
            start: The first clip; those before it are left out.

        Returns:
            The range of clip indices of each part, in order; none if there are no clips.
        """
        if start >= len(self):
            return []
        done_s = np.cumsum(self.durations_s[start:])
        shares = done_s[-1] * np.arange(1, count) / count
        inner = np.searchsorted(done_s, shares) // batch_size * batch_size
        ends = np.unique([0, *inner, len(done_s)]).tolist()
        return [range(start + first, start + end) for first, end in pairwise(ends)]


class Reader:
    """Opens and hashes listed clips, look by look, each once.

    Attributes:
        listed: The clips.
        sizes: How many of them are read up to each look, ascending.
    """

    def __init__(
        self,
        listed: Listed,
        sizes: Sequence[int],
        order: Iterable[int] | None,
        place: Path,
        progress: Progress,
    ) -> None:
        """Read nothing yet.

        Args:
            listed: The clips.
            sizes: How many of them are read up to each look, ascending.
            order: Their indices in the order in which they are read; None: the data's order.
            place: The file of the index, which must be new.
            progress: Called with the current activity.
        """
        self.listed, self.sizes = listed, tuple(sizes)
        self._progress = progress
        self._left = iter(listed) if order is None else (listed[int(at)] for at in order)
        self._index, self._whole = RowFile(place), hashlib.sha256()
        self._durations, self._sounds = array("d"), array("q")
        self._languages = frozenset(clip.language for clip in listed)
        self._read: list[Corpus] = []

    def at(self, look: int) -> Corpus:
        """Return the clips up to a look, from 0; those that were read before are not read again.

        Raises:
            DataError: Audio is missing, unreadable or empty.
        """
        while len(self._read) <= look:
            self._read.append(self._further(self.sizes[len(self._read)]))
        return self._read[look]

    def _further(self, count: int) -> Corpus:
        with self._index.writing() as write:
            for clip in islice(self._left, count - len(self._index)):
                if len(self._index) % _TELL_EVERY == 0:
                    self._progress(f"reading clip {len(self._index) + 1} ({clip.path.name})", None)
                duration_s, sound = _examined(clip)
                self._whole.update(_identity(clip))
                path = clip.path.resolve()
                write(_row(replace(clip, path=path, duration_s=duration_s), sound))
                self._durations.append(duration_s)
                self._sounds.append(_number(sound))
        return Corpus(
            self._index,
            np.array(self._durations, dtype=np.float64),
            self._whole.hexdigest(),
            self._languages,
            np.array(self._sounds, dtype=np.int64),
        )


class Corpora:
    """Reads each corpus once, however many artifacts are validated on it.

    The index files are written to `folder`.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._listed: dict[Data, Listed] = {}
        self._readers: dict[tuple[int, tuple[int, ...]], Reader] = {}

    def open(self, data: Data, base: Path) -> Corpus:
        """Return the whole corpus that `data` names.

        Args:
            data: The `data` section of a recipe.
            base: The folder to which a path in `data` is relative.

        Raises:
            DataError: A row is bad, or audio is missing, unreadable or empty.
            HubError: A dataset cannot be downloaded.
            MachineError: pyarrow is missing, which a dataset needs.
        """
        listed = self.listed(data, base)
        return self.reader(listed, (len(listed),)).at(0)

    def listed(self, data: Data, base: Path) -> Listed:
        """List the clips that `data` names; see `open`."""
        source = base / data.clips if data.clips else None
        key = data.model_copy(update={"clips": str(source.resolve())}) if source else data
        if key not in self._listed:
            place = self._folder / f"corpus-{len(self._listed)}.all.jsonl"
            self._listed[key] = _list(data, base, place)
        return self._listed[key]

    def reader(
        self, listed: Listed, sizes: tuple[int, ...], order: Iterable[int] | None = None
    ) -> Reader:
        """Return what reads listed clips; see `Reader`. The same sizes mean the same order."""
        key = id(listed), sizes
        if key not in self._readers:
            place = self._folder / f"corpus-{len(self._readers)}.jsonl"
            self._readers[key] = Reader(listed, sizes, order, place, self._progress)
        return self._readers[key]


def sha256_of(data: Data, base: Path, folder: Path, heard: int | None = None) -> str:
    """Hash the local clips that `data` names as `Reader.at` does; no audio is decoded.

    Args:
        data: The `data` section of a recipe, with `clips`.
        base: The folder to which a path in `data` is relative.
        folder: A folder for a temporary index.
        heard: The number of clips that were heard look by look; None: all, in the data's order.

    Raises:
        DataError: A row is bad, or audio is missing.
    """
    whole, listed = hashlib.sha256(), _list(data, base, folder / "again.jsonl")
    clips: Iterable[Clip] = listed
    if heard is not None:
        clips = (listed[int(at)] for at in order_of(listed, data.seed).places[:heard])
    for clip in clips:
        whole.update(_identity(clip))
    return whole.hexdigest()


def _list(data: Data, base: Path, place: Path) -> Listed:
    """List the clips of a folder, a manifest or a dataset, after checking every row."""
    source = base / data.clips if data.clips else None
    rows = RowFile(place)
    with rows.writing() as write:
        for clip in dataset_clips(data) if source is None else list_clips(source):
            write(_row(clip))
    if not len(rows):
        msg = f"{source or data.dataset} lists no clips"
        raise DataError(msg)
    most = data.max_clips if source else None  # a dataset gives no more
    return Listed(rows, chosen(len(rows), most, data.seed))


def _identity(clip: Clip) -> bytes:
    """Return what a corpus' hash covers of a clip: its name, audio bytes, text and language."""
    known = [clip.id, sha256_file(clip.path), clip.text, clip.language]
    if clip.speaker or clip.recording:
        known += [clip.speaker, clip.recording]
    return json.dumps(known, ensure_ascii=True).encode() + b"\n"


def _number(sha256: str) -> int:
    """Return the first 64 bits of a hash, of which two among a million are hardly ever equal."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), signed=True)


def _examined(clip: Clip) -> tuple[float, str]:
    """Decode a clip; a fault in its audio is told with the place of the clip in the data."""
    try:
        return audio.examined(clip.path)
    except DataError as error:
        if not clip.where:
            raise
        msg = f"{clip.where}: {error}"
        raise DataError(msg) from error
