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
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
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


@dataclass(frozen=True, slots=True)
class Examined:
    """A clip whose audio was opened and decoded.

    Attributes:
        number: Its place in the order in which clips are read, from 0.
        sound: The sha256 of its samples.
        audio: The sha256 of its encoded audio; of a part of a file, also of where it is.
        whole: Whether the data name a part of a file that is all of it.
        clip: The clip, with its duration.
    """

    number: int
    sound: str
    audio: str
    whole: bool
    clip: Clip

    def to_row(self) -> list[Any]:
        """Return plain data for JSON."""
        return [self.number, self.sound, self.audio, self.whole, *self.clip.to_row()]

    @classmethod
    def of_row(cls, row: list[Any]) -> "Examined":
        """Return what `to_row` gave."""
        number, sound, audio, whole, *clip = row
        return cls(number, sound, audio, whole, Clip.of_row(clip))

    @property
    def identity(self) -> bytes:
        """What a corpus' hash covers of the clip."""
        return _identity(self.clip, self.audio, whole=self.whole)


def clip_of(row: list[Any]) -> Clip:
    """Return the clip that a row of a corpus' index describes."""
    return Examined.of_row(row).clip


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
        staged: Clips that have a file of their own now, by their indices.
    """

    index: RowFile
    durations_s: NDArray[np.float64]
    sha256: str
    languages: frozenset[str | None]
    sounds: NDArray[np.int64]
    unreadable: tuple[str, ...] = ()
    staged: Mapping[int, Clip] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.durations_s)

    def __getitem__(self, place: int) -> Clip:
        return self.staged.get(place) or clip_of(self.index[place])

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


class Reading:
    """Listed clips that are read look by look, each once, in an order.

    Attributes:
        listed: The clips.
        sizes: How many of them are read up to each look, ascending. Those that cannot be read count
            here: a look has fewer clips by their number.
        order: The clips' indices in the order in which they are read, int64 [clips].
        languages: The languages named by all listed clips; contains None if some name none.
        skips: Whether clips that cannot be read are left out.
        index: The rows of the clips that were read; `Examined.of_row` reads one.
        here: Whether their audio is opened on this machine.
    """

    here = True

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
        places = range(len(listed)) if order is None else order
        self.order = np.fromiter(places, dtype=np.int64, count=self.sizes[-1])
        self.languages = frozenset(clip.language for clip in listed)
        self.skips = skip_unreadable
        self._progress = progress
        self._unreadable: list[tuple[int, str]] = []
        self.index, self._whole = RowFile(place), hashlib.sha256()
        self._staged: dict[int, Clip] = {}
        self._durations, self._sounds = array("d"), array("q")
        self._read: list[Corpus] = []

    def at(self, look: int) -> Corpus:
        """Return the clips up to a look, from 0; those that were read before are not read again.

        Raises:
            DataError: Audio is missing, unreadable or empty.
        """
        while len(self._read) <= look:
            self._further(len(self._read))
            self._read.append(self._corpus(self.sizes[len(self._read)]))
        return self._read[look]

    def numbers(self, look: int) -> range:
        """Return the places in the order of the clips that a look adds."""
        return range(self.sizes[look - 1] if look else 0, self.sizes[look])

    def clips(self, numbers: range) -> Iterator[Clip]:
        """Yield listed clips by their places in the order."""
        return self.listed.some(self.order[numbers.start : numbers.stop].tolist())

    def unreadable(self, numbers: range) -> list[tuple[int, str]]:
        """Return which of some clips were left out: their places in the order, and names."""
        first, end = (bisect_left(self._unreadable, (at,)) for at in (numbers.start, numbers.stop))
        return self._unreadable[first:end]

    def rows(self, numbers: range) -> range:
        """Return the rows in the index of clips that were read, by their places in the order."""
        return range(self._row(numbers.start), self._row(numbers.stop))

    def is_read(self, numbers: range) -> bool:
        """Return whether clips were read, by their places in the order."""
        return numbers.stop <= (self.sizes[len(self._read) - 1] if self._read else 0)

    def _row(self, number: int) -> int:
        return number - bisect_left(self._unreadable, (number,))

    def _further(self, look: int) -> None:
        """Read the clips that a look adds."""
        raise NotImplementedError

    def _add(self, one: Examined, write: Callable[[list[Any]], None]) -> None:
        write(one.to_row())
        self._whole.update(one.identity)
        self._durations.append(one.clip.duration_s)
        self._sounds.append(_number(one.sound))

    def _corpus(self, tried: int) -> Corpus:
        if not self._durations:
            msg = f"{self.listed.source} lists no clips that can be read"
            if tried < len(self.listed):
                msg += f", among {tried} of {len(self.listed)}"
            raise DataError(msg)
        return Corpus(
            self.index,
            np.array(self._durations, dtype=np.float64),
            self._whole.hexdigest(),
            self.languages,
            np.array(self._sounds, dtype=np.int64),
            tuple(name for _, name in self._unreadable),
            self._staged,
        )


class Reader(Reading):
    """Opens and hashes listed clips here."""

    def _further(self, look: int) -> None:
        staging = self.index.path.with_suffix("")
        staging.mkdir(exist_ok=True)
        with self.index.writing() as write, Opener() as opener:
            numbers = self.numbers(look)
            for number, clip in zip(numbers, self.clips(numbers), strict=True):
                if number % _TELL_EVERY == 0:
                    self._progress(f"reading clip {number + 1} ({clip.path.name})", None)
                try:
                    one = examined(number, clip, opener, staging / f"{number:06}")
                except DataError as error:
                    self._skip(number, clip, error)
                    continue
                self._add(one, write)

    def _skip(self, number: int, clip: Clip, error: DataError) -> None:
        """Take note of a clip that cannot be read; raise its error where none is left out."""
        if not self.skips:
            raise error
        self._unreadable.append((number, clip.id))
        if len(self._unreadable) <= _TOLD:
            _log.warning("left out: %s", error)
        elif len(self._unreadable) == _TOLD + 1:
            _log.warning("more clips are left out: the report has the names of all")


class Corpora:
    """Reads each corpus once, however many artifacts are validated on it.

    The index files are written to `folder`.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        *,
        skip_unreadable: bool = False,
        kind: type[Reading] | None = None,
    ) -> None:
        """Set up a reader.

        Args:
            folder: A folder for index files, and for clips that are no files of their own.
            progress: Called with the current activity.
            skip_unreadable: Leave clips out that cannot be read, in place of an error.
            kind: What reads clips; by default a `Reader`.
        """
        self._folder = folder
        self._progress = progress
        self._kind = kind or Reader
        self._skips = skip_unreadable
        self._listed: dict[Data, Listed] = {}
        self._readers: dict[tuple[int, tuple[int, ...]], Reading] = {}

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
    ) -> Reading:
        """Return what reads listed clips; see `Reading`. The same sizes mean the same order."""
        key = id(listed), sizes
        if key not in self._readers:
            place = self._folder / f"corpus-{len(self._readers)}.jsonl"
            self._readers[key] = self._kind(
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
        clips = listed.some(order_of(listed, data.seed).by_looks(looks))
    with Opener() as opener:
        for clip in clips:
            if clip.id not in left_out:
                encoded = opener.open(clip)
                known = opener.sha256(clip, encoded)
                whole.update(_identity(clip, known, whole=_is_whole(clip, encoded)))
    return whole.hexdigest()


def _identity(clip: Clip, sha256: str, *, whole: bool) -> bytes:
    """Return what a corpus' hash covers of a clip: its name, audio bytes, text and language.

    Args:
        clip: The clip.
        sha256: The hash of its audio.
        whole: Whether the data name a part of a file that is all of it: the same clip as one that
            is listed without an offset, and so has no recording by default.
    """
    known, recording = [clip.id, sha256, clip.text, clip.language], clip.recording
    if whole and recording == readable_name(clip.path.name):
        recording = None
    if clip.speaker or recording:
        known += [clip.speaker, recording]
    return json.dumps(known, ensure_ascii=True).encode() + b"\n"


def _is_whole(clip: Clip, encoded: Path | bytes) -> bool:
    return isinstance(clip.part, Excerpt) and encoded == clip.path


def _number(sha256: str) -> int:
    """Return the first 64 bits of a hash, of which two among a million are hardly ever equal."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), signed=True)


def examined(number: int, clip: Clip, opener: Opener, place: Path) -> Examined:
    """Open and decode a clip; a fault in its audio is told with the place of the clip in the data.

    Args:
        number: The clip's place in the order in which clips are read.
        clip: The clip.
        opener: Opens it.
        place: The path, without a suffix, of the file to write if its audio is no file of its own.

    Raises:
        DataError: Its audio is missing, unreadable or empty.
    """
    staged, sha256 = opener.staged(clip, place.parent, place.name)
    try:
        duration_s, sound = audio.examined(staged.path)
    except DataError as error:
        raise told(clip, error) from error
    heard = replace(staged, path=staged.path.resolve(), duration_s=duration_s)
    return Examined(number, sound, sha256, _is_whole(clip, staged.path), heard)
