"""The index of a corpus: each clip is opened and hashed once in a run, its row written to disk.

Of a clip, the offset of its row, its duration and a hash of its sound stay in memory: 24 bytes.
Clips that are no files of their own are written to files, which are removed after the run.
"""

import hashlib
import json
import logging
import random
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import DataError
from exporter.formats import audio
from exporter.formats.clips import Clip, chosen, list_clips
from exporter.formats.clips.addresses import resolved, source_at
from exporter.formats.clips.listing import ClipList
from exporter.formats.clips.opening import Opener, told
from exporter.formats.clips.readers.layouts import Source
from exporter.formats.clips.row_file import RowFile as RowFile  # re-exported for importers
from exporter.formats.clips.row_file import rows_from as rows_from
from exporter.recipe import Data
from exporter.system.progress import Progress
from exporter.validate.corpus.dataset import dataset_clips

_TELL_EVERY = 100
_TOLD = 5  # unreadable clips

_log = logging.getLogger(__name__)


def clip_of(row: list[Any]) -> Clip:
    """Return the clip that a row of a corpus' index describes."""
    return Clip.of_row(row)


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
        unreadable: The names of clips that were left out, because they could not be read.
    """

    index: RowFile
    durations_s: NDArray[np.float64]
    sha256: str
    languages: frozenset[str | None]
    sounds: NDArray[np.int64]
    unreadable: tuple[str, ...] = ()

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
        source = source_at(base, data.clips) if data.clips else None
        key = data.model_copy(update={"clips": resolved(source)}) if source else data
        if key not in self._read:
            place = self._folder / f"corpus-{len(self._read)}"
            clips: Iterable[Clip] = dataset_clips(data)
            if source:
                clips = _sampled(source, data, place, present=not self._skips)
            self._read[key] = self._index(clips, str(source or data.dataset), place)
        return self._read[key]

    def _index(self, clips: Iterable[Clip], source: str, place: Path) -> Corpus:
        index, whole = RowFile(place.with_suffix(".jsonl")), hashlib.sha256()
        durations, languages, sounds = array("d"), set(), array("q")
        skipped: list[str] = []
        place.mkdir(exist_ok=True)
        with index.writing() as write, Opener() as opener:
            for clip in clips:
                if len(index) % _TELL_EVERY == 0:
                    self._progress(f"reading clip {len(index) + 1} ({clip.path.name})", None)
                try:
                    heard, sound, identity = _examined(clip, opener, place / f"{len(index):06}")
                except DataError as error:
                    self._skip(clip, error, skipped)
                    continue
                whole.update(identity)
                write(heard.to_row())
                durations.append(heard.duration_s)
                languages.add(clip.language)
                sounds.append(_number(sound))
        if not durations:
            msg = f"{source} lists no clips" + (" that can be read" if skipped else "")
            raise DataError(msg)
        return Corpus(
            index,
            np.array(durations, dtype=np.float64),
            whole.hexdigest(),
            frozenset(languages),
            np.array(sounds, dtype=np.int64),
            tuple(skipped),
        )

    def _skip(self, clip: Clip, error: DataError, skipped: list[str]) -> None:
        """Take note of a clip that cannot be read; raise its error where none is left out."""
        if not self._skips:
            raise error
        skipped.append(clip.id)
        if len(skipped) <= _TOLD:
            _log.warning("left out: %s", error)
        elif len(skipped) == _TOLD + 1:
            _log.warning("more clips are left out: the report has the names of all")


def sha256_of(data: Data, base: Path, folder: Path, unreadable: Collection[str] = ()) -> str:
    """Hash the local clips that `data` names as `Corpora.open` does; no audio is decoded.

    Args:
        data: The `data` section of a recipe, with `clips`.
        base: The folder to which a path in `data` is relative.
        folder: A folder for a temporary index.
        unreadable: The names of clips that were left out.

    Raises:
        DataError: A row is bad, or audio is missing.
    """
    whole, left_out = hashlib.sha256(), frozenset(unreadable)
    source = source_at(base, str(data.clips))
    with Opener() as opener:
        for clip in _sampled(source, data, folder / "again", present=not left_out):
            if clip.id not in left_out:
                whole.update(_identity(clip, opener.sha256(clip, opener.open(clip))))
    return whole.hexdigest()


def _identity(clip: Clip, sha256: str) -> bytes:
    """Return what a corpus' hash covers of a clip: its name, audio bytes, text and language."""
    known = [clip.id, sha256, clip.text, clip.language]
    if clip.speaker or clip.recording:
        known += [clip.speaker, clip.recording]
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
    return heard, sound, _identity(clip, sha256)


def _sampled(source: Source, data: Data, place: Path, *, present: bool) -> Iterable[Clip]:
    """Return the clips of a folder or manifest, or a sample of them after checking all."""
    clips = list_clips(source, present=present)
    if data.max_clips is None:
        return clips
    listed = ClipList(place.with_suffix(".all.jsonl"), clips)
    return (listed[at] for at in chosen(len(listed), data.max_clips, data.seed))
