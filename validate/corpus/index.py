"""The index of a corpus: each clip is opened and hashed once in a run, its row written to disk.

Of a clip, the offset of its row, its duration and a hash of its sound stay in memory: 24 bytes; of
one that is listed and not heard, the offset alone. Clips that are heard and no files of their own
are written to files, which are removed after the run.
"""

import hashlib
import json
import logging
import random
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import DataError
from exporter.formats import audio
from exporter.formats.audio.cutting import Excerpt
from exporter.formats.clips import Clip
from exporter.formats.clips.addresses import resolved, source_at
from exporter.formats.clips.opening import Opener, told
from exporter.formats.clips.row_file import RowFile as RowFile  # re-exported for importers
from exporter.formats.clips.row_file import rows_from as rows_from
from exporter.recipe import Data
from exporter.system.files import readable_name
from exporter.system.progress import Progress
from exporter.validate.corpus.listed import Listed, list_data
from exporter.validate.corpus.order import order_of

_TELL_EVERY = 100
_TOLD = 5  # unreadable clips

_log = logging.getLogger(__name__)


def clip_of(row: list[Any]) -> Clip:
    """Return the clip that a row of a corpus' index describes."""
    return Clip.of_row(row[1:])


def sound_of(row: list[Any]) -> str:
    """Return the sha256 of the sound of a row's clip."""
    return str(row[0])


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
        unreadable: The names of clips up to the look that could not be read, and are left out.
    """

    index: RowFile
    durations_s: NDArray[np.float64]
    sha256: str
    languages: frozenset[str | None]
    sounds: NDArray[np.int64]
    unreadable: tuple[str, ...] = ()

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
        sizes: How many of them are read up to each look, ascending. Those that cannot be read count
            here: a look has fewer clips by their number.
    """

    def __init__(
        self,
        listed: Listed,
        sizes: Sequence[int],
        order: Iterable[int] | None,
        place: Path,
        progress: Progress,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        """Read nothing yet.

        Args:
            listed: The clips.
            sizes: How many of them are read up to each look, ascending.
            order: Their indices in the order in which they are read; None: the data's order.
            place: The file of the index, which must be new and end with `.jsonl`. Clips that are no
                files of their own are written to a folder of its name, without the suffix.
            progress: Called with the current activity.
            skip_unreadable: Leave clips out that cannot be read, in place of an error.
        """
        self.listed, self.sizes = listed, tuple(sizes)
        self._progress = progress
        self._skips = skip_unreadable
        self._tried, self._unreadable = 0, list[str]()
        self._left = iter(listed) if order is None else (listed[at] for at in order)
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
        staging = self._index.path.with_suffix("")
        staging.mkdir(exist_ok=True)
        with self._index.writing() as write, Opener() as opener:
            for clip in islice(self._left, count - self._tried):
                if self._tried % _TELL_EVERY == 0:
                    self._progress(f"reading clip {self._tried + 1} ({clip.path.name})", None)
                self._tried += 1
                try:
                    heard, sound, identity = _examined(
                        clip, opener, staging / f"{self._tried - 1:06}"
                    )
                except DataError as error:
                    self._skip(clip, error)
                    continue
                self._whole.update(identity)
                write([sound, *heard.to_row()])
                self._durations.append(heard.duration_s)
                self._sounds.append(_number(sound))
        if not self._durations:
            msg = f"{self.listed.source} lists no clips that can be read"
            if self._tried < len(self.listed):
                msg += f", among {self._tried} of {len(self.listed)}"
            raise DataError(msg)
        return Corpus(
            self._index,
            np.array(self._durations, dtype=np.float64),
            self._whole.hexdigest(),
            self._languages,
            np.array(self._sounds, dtype=np.int64),
            tuple(self._unreadable),
        )

    def _skip(self, clip: Clip, error: DataError) -> None:
        """Take note of a clip that cannot be read; raise its error where none is left out."""
        if not self._skips:
            raise error
        self._unreadable.append(clip.id)
        if len(self._unreadable) <= _TOLD:
            _log.warning("left out: %s", error)
        elif len(self._unreadable) == _TOLD + 1:
            _log.warning("more clips are left out: the report has the names of all")


class Corpora:
    """Reads each corpus once, however many artifacts are validated on it.

    The index files are written to `folder`.
    """

    def __init__(self, folder: Path, progress: Progress, *, skip_unreadable: bool = False) -> None:
        """Set up a reader.

        Args:
            folder: A folder for index files, and for clips that are no files of their own.
            progress: Called with the current activity.
            skip_unreadable: Leave clips out that cannot be read, in place of an error.
        """
        self._folder = folder
        self._progress = progress
        self._skips = skip_unreadable
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
        source = source_at(base, data.clips) if data.clips else None
        key = data.model_copy(update={"clips": resolved(source)}) if source else data
        if key not in self._listed:
            place = self._folder / f"corpus-{len(self._listed)}.all.jsonl"
            self._listed[key] = list_data(data, base, place, present=not self._skips)
        return self._listed[key]

    def reader(
        self, listed: Listed, sizes: tuple[int, ...], order: Iterable[int] | None = None
    ) -> Reader:
        """Return what reads listed clips; see `Reader`. The same sizes mean the same order."""
        key = id(listed), sizes
        if key not in self._readers:
            place = self._folder / f"corpus-{len(self._readers)}.jsonl"
            self._readers[key] = Reader(
                listed, sizes, order, place, self._progress, skip_unreadable=self._skips
            )
        return self._readers[key]


def sha256_of(
    data: Data,
    base: Path,
    folder: Path,
    unreadable: Collection[str] = (),
    *,
    looks: Sequence[int] = (),
) -> str:
    """Hash the local clips that `data` names as `Reader.at` does; no audio is decoded.

    Args:
        data: The `data` section of a recipe, with `clips`.
        base: The folder to which a path in `data` is relative.
        folder: A folder for a temporary index.
        unreadable: The names of clips that were left out.
        looks: How many clips were read up to each look that was made, with those that were left
            out; empty: all, in the data's order.

    Raises:
        DataError: A row is bad, or audio that was heard cannot be read.
        OSError: A file that was heard is missing.
    """
    whole, left_out = hashlib.sha256(), frozenset(unreadable)
    listed = list_data(data, base, folder / "again.jsonl", present=False)  # not all are opened
    clips: Iterable[Clip] = listed
    if looks:
        clips = (listed[at] for at in order_of(listed, data.seed).by_looks(looks))
    with Opener() as opener:
        for clip in clips:
            if clip.id not in left_out:
                encoded = opener.open(clip)
                whole.update(_identity(clip, encoded, opener.sha256(clip, encoded)))
    return whole.hexdigest()


def _identity(clip: Clip, encoded: Path | bytes, sha256: str) -> bytes:
    """Return what a corpus' hash covers of a clip: its name, audio bytes, text and language.

    Args:
        clip: The clip as it is listed.
        encoded: Its audio, as `Opener.open` returns it.
        sha256: The hash of these bytes.
    """
    known, recording = [clip.id, sha256, clip.text, clip.language], clip.recording
    if isinstance(clip.part, Excerpt) and encoded == clip.path:
        # All of a file: the same clip as one that is listed without an offset, and so has no
        # recording by default.
        recording = None if recording == readable_name(clip.path.name) else recording
    if clip.speaker or recording:
        known += [clip.speaker, recording]
    return json.dumps(known, ensure_ascii=True).encode() + b"\n"


def _number(sha256: str) -> int:
    """Return the first 64 bits of a hash, of which two among a million are hardly ever equal."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), signed=True)


def _examined(clip: Clip, opener: Opener, place: Path) -> tuple[Clip, str, bytes]:
    """Decode a clip; a fault in its audio is told with the place of the clip in the data.

    Returns:
        The clip with its duration, and a file of its own; a hash of its sound; and its identity.
    """
    staged, sha256 = opener.staged(clip, place.parent, place.name)
    try:
        duration_s, sound = audio.examined(staged.path)
    except DataError as error:
        raise told(clip, error) from error
    heard = replace(staged, path=staged.path.resolve(), duration_s=duration_s)
    return heard, sound, _identity(clip, staged.path, sha256)
