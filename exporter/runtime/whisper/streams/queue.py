"""One queue for the windows of all recordings: rows that end go on with the next window.

A batch that begins and ends together waits for its longest text. Here an engine's rows are kept
full: windows are encoded several at a time, ahead of the rows that will decode them.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from exporter.runtime.whisper.language import FoundLanguage
from exporter.runtime.whisper.long_form import LongForm, Recording, Timed
from exporter.runtime.whisper.streams.ahead import Ahead
from exporter.runtime.whisper.streams.stream import Ask, Stream

_ENCODED = 16  # windows that are encoded at a time, at most


@dataclass(frozen=True)
class Heard:
    """Segments of a recording, in the order of time.

    Attributes:
        index: The place of the recording in the queue.
        timed: The segments.
        last: Whether it has no others.
    """

    index: int
    timed: list[Timed]
    last: bool


class WindowQueue:
    """Decodes recordings: the next window of each as soon as there is a row for it.

    Recordings whose next window follows from the one before go first, so that they do not end long
    after all others.
    """

    def __init__(
        self, form: LongForm, stream: Stream, rows: int, known: dict[int, FoundLanguage]
    ) -> None:
        """Begin a queue.

        Args:
            form: Finds the windows of recordings, and the segments of their texts.
            stream: Decodes the windows.
            rows: The most windows that are decoded at a time.
            known: The languages that were found, by `Recording.of`; added to.
        """
        self._form, self._stream, self._known = form, stream, known
        self._batch = min(rows, _ENCODED)
        self._again: deque[tuple[int, Recording]] = deque()
        self._waiting: deque[tuple[int, Recording, Ask]] = deque()
        self._running: dict[int, tuple[int, Recording, Ask]] = {}
        self._silent: list[Heard] = []
        self._indices = count()

    def decode(self, recordings: Iterable[Recording]) -> Iterator[Heard]:
        """Yield the segments of each window as they come."""
        with Ahead(recordings, 2 * self._batch) as source:
            while self._fill(source):
                yield from self._silent
                self._silent.clear()
                for told in self._stream.advance():
                    index, recording, ask = self._running.pop(told.key)
                    window = self._form.windows.follow(ask, told, recording.seek)
                    timed = self._form.advance(recording, window, ask)
                    if recording.left:
                        self._again.append((index, recording))
                    yield Heard(index, timed, last=not recording.left)
            yield from self._silent

    def _fill(self, source: Ahead[Recording]) -> bool:
        """Give the free rows windows; return whether any row runs."""
        while free := self._stream.free:
            if not self._waiting:
                self._hear(source)
            if not self._waiting:
                break
            some = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            keys = self._stream.add([ask for _, _, ask in some])
            self._running.update(zip(keys, some, strict=True))
        return bool(self._running)

    def _hear(self, source: Ahead[Recording]) -> None:
        """Encode the next windows: those that are there, if some run, else wait for them."""
        some: list[tuple[int, Recording]] = []
        while len(some) < self._batch:
            if self._again:
                some.append(self._again.popleft())
                continue
            recording = source.take(wait=not (some or self._running))
            if recording is None:
                break
            index = next(self._indices)
            if recording.left:
                some.append((index, recording))
            else:
                self._silent.append(Heard(index, [], last=True))
        if some:
            asks = self._asks([recording for _, recording in some])
            self._waiting += [(*one, ask) for one, ask in zip(some, asks, strict=True)]

    def _asks(self, recordings: list[Recording]) -> list[Ask]:
        for one in recordings:
            if one.language is None and one.of in self._known:
                one.language = self._known[one.of].token
        asks = self._form.hear(recordings)
        for one in recordings:
            if one.found is not None:
                self._known.setdefault(one.of, one.found)
        return asks


def in_order(heard: Iterable[Heard]) -> Iterator[Heard]:
    """Yield segments in the order of the recordings: those of the first one that runs, at once."""
    current, later, ended = 0, dict[int, list[Heard]](), set[int]()
    for one in heard:
        if one.last:
            ended.add(one.index)
        if one.index > current:
            later.setdefault(one.index, []).append(one)
            continue
        yield one
        while current in ended:
            current += 1
            yield from later.pop(current, [])
