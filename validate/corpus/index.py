"""The index of a corpus: each clip is opened and hashed once in a run, its row written to disk.

Of a clip, the offset of its row, its duration and a hash of its sound stay in memory: 24 bytes.
"""

import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
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
        """Open the file, which must be new, and yield the function that appends a row."""
        with self.path.open("xb") as stream:

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


def _row(clip: Clip) -> list[object]:
    origin = clip.speaker, clip.recording
    return [clip.id, str(clip.path), clip.text, clip.language, clip.duration_s, clip.where, *origin]


def clip_of(row: list[Any]) -> Clip:
    """Return the clip that a row of a corpus' index describes."""
    name, path, *others = row
    return Clip(name, Path(path), *others)


@dataclass(frozen=True)
class Corpus:
    """The clips of one run, in order.

    Attributes:
        index: One row a clip; `clip_of` reads it.
        durations_s: Seconds of each clip, float64 [clips].
        sha256: Over every clip's name, audio bytes, text and language, in order; and over its
            speaker and recording, if it names either.
        languages: The languages named by clips; contains None if some clip names none.
        sounds: A number for each clip's sound, the same for copies, int64 [clips].
    """

    index: RowFile
    durations_s: NDArray[np.float64]
    sha256: str
    languages: frozenset[str | None]
    sounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> Clip:
        return clip_of(self.index[place])

    def __iter__(self) -> Iterator[Clip]:
        return map(clip_of, self.index)

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

    def parts(self, count: int, batch_size: int) -> list[range]:
        """Split the corpus at batch boundaries into parts with about equal durations of audio.

        Args:
            count: Maximum number of parts; none of them is empty.
            batch_size: Clips in a batch; batches do not depend on the number of parts.

        Returns:
            The range of clip indices of each part, in order.
        """
        done_s = np.cumsum(self.durations_s)
        shares = done_s[-1] * np.arange(1, count) / count
        inner = np.searchsorted(done_s, shares) // batch_size * batch_size
        ends = np.unique([0, *inner, len(self)]).tolist()
        return [range(start, end) for start, end in pairwise(ends)]


class Corpora:
    """Reads each corpus once, however many artifacts are validated on it.

    The index files are written to `folder`.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._read: dict[Data, Corpus] = {}

    def open(self, data: Data, base: Path) -> Corpus:
        """Return the corpus that `data` names.

        Args:
            data: The `data` section of a recipe.
            base: The folder to which a path in `data` is relative.

        Raises:
            DataError: A row is bad, or audio is missing, unreadable or empty.
            HubError: A dataset cannot be downloaded.
            MachineError: pyarrow is missing, which a dataset needs.
        """
        source = base / data.clips if data.clips else None
        key = data.model_copy(update={"clips": str(source.resolve())}) if source else data
        if key not in self._read:
            place = self._folder / f"corpus-{len(self._read)}"
            clips = _sampled(source, data, place) if source else dataset_clips(data)
            self._read[key] = self._index(clips, str(source or data.dataset), place)
        return self._read[key]

    def _index(self, clips: Iterable[Clip], source: str, place: Path) -> Corpus:
        index, whole = RowFile(place.with_suffix(".jsonl")), hashlib.sha256()
        durations, languages, sounds = array("d"), set(), array("q")
        with index.writing() as write:
            for clip in clips:
                if len(index) % _TELL_EVERY == 0:
                    self._progress(f"reading clip {len(index) + 1} ({clip.path.name})", None)
                duration_s, sound = _examined(clip)
                whole.update(_identity(clip))
                path = clip.path.resolve()
                write(_row(replace(clip, path=path, duration_s=duration_s)))
                durations.append(duration_s)
                languages.add(clip.language)
                sounds.append(_number(sound))
        if not durations:
            msg = f"{source} lists no clips"
            raise DataError(msg)
        lengths = np.array(durations, dtype=np.float64)
        return Corpus(
            index,
            lengths,
            whole.hexdigest(),
            frozenset(languages),
            np.array(sounds, dtype=np.int64),
        )


def sha256_of(data: Data, base: Path, folder: Path) -> str:
    """Hash the local clips that `data` names as `Corpora.open` does; no audio is decoded.

    Args:
        data: The `data` section of a recipe, with `clips`.
        base: The folder to which a path in `data` is relative.
        folder: A folder for a temporary index.

    Raises:
        DataError: A row is bad, or audio is missing.
    """
    whole = hashlib.sha256()
    for clip in _sampled(base / str(data.clips), data, folder / "again"):
        whole.update(_identity(clip))
    return whole.hexdigest()


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


def _sampled(source: Path, data: Data, place: Path) -> Iterable[Clip]:
    """Return the clips of a folder or manifest, or a sample of them after checking all."""
    clips = list_clips(source)
    if data.max_clips is None:
        return clips
    listed = RowFile(place.with_suffix(".all.jsonl"))
    with listed.writing() as write:
        for clip in clips:
            write(_row(clip))
    return (clip_of(listed[at]) for at in chosen(len(listed), data.max_clips, data.seed))
