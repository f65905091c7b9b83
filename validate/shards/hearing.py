"""What one model hears: planned in shards, heard where an executor runs, and kept in a store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from exporter.engine.executors import Task
from exporter.engine.part_store import PartStore
from exporter.errors import DataError
from exporter.formats.audio.cutting import Excerpt
from exporter.formats.clips import Clip
from exporter.formats.clips.opening import Opener
from exporter.formats.clips.row_file import RowFile, rows_from
from exporter.system.tempdirs import scratch
from exporter.validate.corpus.index import Examined, Reading, examined
from exporter.validate.measure import transcripts
from exporter.validate.measure.model import ModelSpec
from exporter.validate.measure.transcripts import ClipResult, read_transcripts
from exporter.validate.shards.cut import cut
from exporter.validate.shards.parts import (
    Damaged,
    HeardClip,
    Part,
    Unreadable,
    environments_of,
    hash_of,
    name_of,
    named,
    packed,
    unpacked,
)

_log = logging.getLogger(__name__)
_STEP = f"{transcripts.__name__}:transcribe"


@dataclass(frozen=True)
class Listener:
    """A model that hears clips, and what its transcripts depend on.

    Attributes:
        spec: The model, and how it decodes.
        sha256: The checkpoint's hash, or the artifact's digest.
        name: Its name in messages.
        windows: About how many windows of 30 s it hears in a shard.
        kept: The file of the model's kept transcripts, of an original on this machine.
        memory_bytes: The memory that it needs; 0 if that is not known.
    """

    spec: ModelSpec
    sha256: str
    name: str
    windows: int
    kept: Path | None = None
    memory_bytes: int = 0

    def as_known(self) -> dict[str, Any]:
        """Return what decides its transcripts, as plain data."""
        plain = self.spec.model_dump(mode="json", exclude={"model", "trust", "threads"})
        return {**plain, "sha256": self.sha256}


@dataclass(frozen=True)
class Shard:
    """Clips that are heard in one go.

    Attributes:
        numbers: Their places in the order in which clips are read.
        sha256: A hash of the model, how it decodes, and the clips.
    """

    numbers: range
    sha256: str


@dataclass
class Hearing:
    """One model's transcripts of clips that are read look by look.

    Attributes:
        listener: The model.
        reading: The clips.
        store: Where parts are.
        environment: The kind of machine that hears; None as long as it is not known.
        least: Into how many shards a look is cut at least.
    """

    listener: Listener
    reading: Reading
    store: PartStore
    environment: dict[str, Any] | None
    least: int = 1
    _shards: dict[int, list[Shard]] = field(default_factory=dict, init=False)

    def shards(self, look: int) -> list[Shard]:
        """Return the shards of the clips that a look adds, the same ones on every machine."""
        if look not in self._shards:
            numbers, spec = self.reading.numbers(look), self.listener.spec
            clips = self.reading.clips(numbers)
            cuts = cut(clips, self.listener.windows, spec.decoding.batch_size, self.least)
            self._shards[look] = [
                self._shard(range(numbers.start + each.start, numbers.start + each.stop))
                for each in cuts
            ]
        return self._shards[look]

    def missing(self, look: int) -> list[Shard]:
        """Return the shards of a look that have no part, or none that can be used."""
        names = self.store.names()
        return [
            shard
            for shard in self.shards(look)
            if self._name(shard) not in names or self.part(shard) is None
        ]

    def environments(self, look: int) -> list[set[str]]:
        """Return for each shard of a look the hashes of the environments that have a part of it."""
        names = self.store.names()
        return [environments_of(names, shard.sha256) for shard in self.shards(look)]

    def environment_of(self, kind: str) -> dict[str, Any]:
        """Return the environment of a hash that `environments` gave for the first look.

        Raises:
            DataError: The part that has it is damaged.
        """
        known = next(
            shard
            for shard, kinds in zip(self.shards(0), self.environments(0), strict=True)
            if kind in kinds
        )
        try:
            found = unpacked(self.store.read(named(known.sha256, kind))).environment
        except Damaged:
            found = {}
        if hash_of(found) != kind:
            name = named(known.sha256, kind)
            msg = f"{self.store}: {name}, a part of {self.listener.name}, is damaged: remove it"
            raise DataError(msg)
        return found

    def part(self, shard: Shard) -> Part | None:
        """Return a shard's part; None if it is damaged, or of other clips."""
        data = self.store.read(self._name(shard))
        try:
            part = unpacked(data)
        except Damaged:
            told = "%s: %s is damaged, and does not count"
            _log.warning(told, self.store, self._name(shard))
            return None
        if part.unreadable and not self.reading.skips:  # hearing it tells why
            told = "%s: a part lacks %s, which could not be read; --skip-unreadable leaves it out"
            _log.warning(told, self.store, part.unreadable[0].id)
            return None
        return part if self._fits(shard, part) else None

    def results(self, look: int) -> Iterator[ClipResult]:
        """Yield what was heard in the clips up to a look, in their order.

        Raises:
            DataError: A part is missing, or of other audio than the one that was read.
        """
        self.reading.at(look)
        for each in range(look + 1):
            for shard in self.shards(each):
                part = self.part(shard)
                if part is None:
                    raise self._changed()
                self._require_same(shard, part)
                yield from (clip.heard for clip in part.clips)

    def require_same(self) -> None:
        """Raise DataError if the parts of the first look are of other audio than was read."""
        for _ in self.results(0):
            pass

    def examined(self, look: int) -> Iterator[tuple[list[Examined], list[tuple[int, str]]]]:
        """Yield the clips of each shard as they were read where they were heard.

        The other list has those that could not be read: their places in the order, and names.

        Raises:
            DataError: A part is not of these clips.
        """
        for shard in self.shards(look):
            part = self.part(shard)
            listed = list(self.reading.clips(shard.numbers))
            if part is None or not _is_of(part, listed):
                raise self._changed()
            start = shard.numbers.start
            yield (
                [_examined(start, listed[clip.number], clip) for clip in part.clips],
                [(start + each.number, each.id) for each in part.unreadable],
            )

    def keep(self, shard: Shard, heard: Iterable[ClipResult]) -> None:
        """Write the part of a shard of clips that were read here."""
        assert self.environment is not None
        unreadable = self.reading.unreadable(shard.numbers)
        start, rows = shard.numbers.start, self._rows(shard)
        part = part_of(self.environment, start, rows, heard, unreadable)
        self.store.write(self._name(shard), packed(part))

    def request(self, shard: Shard, output: Path) -> transcripts.Part:
        """Return the part to transcribe, of clips that were read here."""
        rows, index = self.reading.rows(shard.numbers), self.reading.index
        return transcripts.Part(
            index=index.path,
            offset=index.offsets[rows.start] if rows else 0,
            first=shard.numbers.start,
            clips=len(rows),
            total=self.reading.sizes[-1],
            output=output,
            kept=self.listener.kept,
        )

    def task(self, shard: Shard, output: Path) -> Task:
        """Return what hears a shard of clips that were read here."""
        part = self.request(shard, output)
        request = transcripts.Request(spec=self.listener.spec, part=part).model_dump(mode="json")
        return _HereTask(**self._needs(), request=request, hearing=self, shard=shard)

    def task_anywhere(self, shard: Shard) -> Task:
        """Return what hears a shard on any machine that has the model and reaches the data."""
        assert self.environment is not None
        return _AnywhereTask(
            **self._needs(),
            request={},
            spec=self.listener.spec,
            numbers=shard.numbers,
            total=self.reading.sizes[-1],
            rows=[clip.anywhere().to_row() for clip in self.reading.clips(shard.numbers)],
            store=self.store.anywhere(),
            name=self._name(shard),
            kind=self.environment,
            skips=self.reading.skips,
        )

    def _needs(self) -> dict[str, Any]:
        """Return the fields that all tasks of the model have."""
        return {
            "step": _STEP,
            "what": self.listener.name,
            "threads": self.listener.spec.threads,
            "memory_bytes": self.listener.memory_bytes,
            "gpus": int(self.listener.spec.device != "cpu"),
        }

    def _shard(self, numbers: range) -> Shard:
        codes = self.listener.spec.languages
        clips = [_known(clip, codes) for clip in self.reading.clips(numbers)]
        return Shard(numbers, hash_of([self.listener.as_known(), clips]))

    def _name(self, shard: Shard) -> str:
        assert self.environment is not None
        return name_of(shard.sha256, self.environment)

    def _changed(self) -> DataError:
        return DataError(f"{self.store}: a part of {self.listener.name} was changed: run it again")

    def _rows(self, shard: Shard) -> Iterator[Examined]:
        """Yield the clips of a shard that were read."""
        rows, index = self.reading.rows(shard.numbers), self.reading.index
        if rows:
            found = islice(rows_from(index.path, index.offsets[rows.start]), len(rows))
            yield from map(Examined.of_row, found)

    def _fits(self, shard: Shard, part: Part) -> bool:
        """Return whether a part is of the clips as they were read; True if they were not yet."""
        if not self.reading.is_read(shard.numbers):
            return True
        return self._other(shard, part) is None or not self.reading.here

    def _other(self, shard: Shard, part: Part) -> str | None:
        """Return the name of a clip of which a part has other audio than was read."""
        heard = {shard.numbers.start + clip.number: clip.audio for clip in part.clips}
        for row in self._rows(shard):
            if heard.pop(row.number, None) != row.audio:
                return row.clip.id
        return next((clip.id for clip in part.clips if heard), None)

    def _require_same(self, shard: Shard, part: Part) -> None:
        other = self._other(shard, part)
        if other is not None:
            msg = (
                f"{other}: the original and {self.listener.name} heard other audio: the file was "
                f"changed between them.\nRemove {self.store}, and run all parts again."
            )
            raise DataError(msg)


@dataclass(frozen=True, kw_only=True)
class _HereTask(Task):
    """Hears a shard of clips that were read here, and writes its part."""

    hearing: Hearing
    shard: Shard

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        yield self.request
        output = Path(self.request["part"]["output"])
        self.hearing.keep(self.shard, read_transcripts(output))
        output.unlink()


@dataclass(frozen=True, kw_only=True)
class _AnywhereTask(Task):
    """Opens the clips of a shard where it runs, hears them, and writes the part."""

    spec: ModelSpec
    numbers: range
    total: int
    rows: list[list[Any]]
    store: PartStore
    name: str
    kind: dict[str, Any]
    skips: bool

    def is_done(self) -> bool:
        """Return whether the part is there: of a task that ran before its machine was lost.

        One that is damaged, or lacks clips that this run does not leave out, is heard again.
        """
        if self.name not in self.store.names():
            return False
        try:
            part = unpacked(self.store.read(self.name))
        except Damaged:
            return False
        return self.skips or not part.unreadable

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        with scratch() as place:
            index, unreadable = RowFile(place / "rows"), list[tuple[int, str]]()
            with index.writing() as write, Opener() as opener:
                for number, row in zip(self.numbers, self.rows, strict=True):
                    clip = Clip.of_row(row)
                    try:
                        write(examined(number, clip, opener, place / f"{number:06}").to_row())
                    except DataError as error:
                        if not self.skips:
                            raise
                        if not unreadable:  # the report has the names of all
                            _log.warning("left out: %s", error)
                        unreadable.append((number, clip.id))
            if len(unreadable) > 1:
                _log.warning("%d more clips of this shard are left out", len(unreadable) - 1)
            part = transcripts.Part(
                index=index.path,
                offset=0,
                first=self.numbers.start,
                clips=len(index),
                total=self.total,
                output=place / "heard",
            )
            yield transcripts.Request(spec=self.spec, part=part).model_dump(mode="json")
            rows = map(Examined.of_row, index)
            heard = read_transcripts(part.output)
            made = part_of(self.kind, self.numbers.start, rows, heard, unreadable)
            self.store.write(self.name, packed(made))


def part_of(
    environment: dict[str, Any],
    start: int,
    rows: Iterable[Examined],
    heard: Iterable[ClipResult],
    unreadable: Sequence[tuple[int, str]],
) -> Part:
    """Return the part of clips and their transcripts.

    Args:
        environment: The kind of machine.
        start: The place of the shard's first clip in the order.
        rows: The clips that were read.
        heard: The transcript of each.
        unreadable: The clips that could not be read: their places in the order, and names.
    """
    clips = (
        HeardClip(
            number=row.number - start,
            id=row.clip.id,
            sound=row.sound,
            audio=row.audio,
            whole=row.whole,
            duration_s=row.clip.duration_s,
            heard=result,
        )
        for row, result in zip(rows, heard, strict=True)
    )
    left_out = (Unreadable(number=number - start, id=name) for number, name in unreadable)
    return Part(environment, tuple(clips), tuple(left_out))


def _known(clip: Clip, codes: dict[str, str]) -> list[Any]:
    """Return what tells a clip from others without opening it, the same on every machine."""
    named = codes.get(clip.language) if clip.language else None
    size = clip.size_bytes
    if not size and (clip.part is None or isinstance(clip.part, Excerpt)):
        with suppress(OSError):  # told when it is opened
            size = clip.path.stat().st_size
    *_, part, _ = clip.to_row()
    return [clip.id, named, part, size, clip.duration_s]


def _is_of(part: Part, listed: Sequence[Clip]) -> bool:
    """Return whether a part has each listed clip exactly once."""
    found = {each.number: each.id for each in part.clips}
    found |= {each.number: each.id for each in part.unreadable}
    named = dict(enumerate(clip.id for clip in listed))
    return found == named and len(part.clips) + len(part.unreadable) == len(listed)


def _examined(start: int, listed: Clip, heard: HeardClip) -> Examined:
    clip = replace(listed, duration_s=heard.duration_s)
    return Examined(start + heard.number, heard.sound, heard.audio, heard.whole, clip)
