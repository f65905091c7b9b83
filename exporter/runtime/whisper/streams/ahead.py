"""Compute what is needed next in a thread, while something else goes on."""

from collections.abc import Iterable
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1  # in which a thread sees that nobody takes its items any more


class Ahead(Generic[T]):
    """The items of an iterable, of which a thread computes some ahead.

    Attributes:
        exhausted: Whether all have been taken.
    """

    def __init__(self, items: Iterable[T], most: int) -> None:
        self.exhausted = False
        self._items: Queue[tuple[T] | Exception | None] = Queue(most)
        self._left = Event()
        self._thread = Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def take(self, *, wait: bool) -> T | None:
        """Return the next item; None after the last one.

        Args:
            wait: Whether to wait for it; else None is returned if it is not there yet.

        Raises:
            Exception: Whatever computing the item raises.
        """
        if self.exhausted:
            return None
        try:
            item = self._items.get(block=wait)
        except Empty:
            return None
        if isinstance(item, tuple):
            return item[0]
        self.exhausted = True
        if item is not None:
            raise item
        return None

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _run(self, items: Iterable[T]) -> None:
        last: Exception | None = None
        try:
            for item in items:
                self._put((item,))
                if self._left.is_set():
                    return
        except Exception as error:
            last = error
        self._put(last)

    def _put(self, item: tuple[T] | Exception | None) -> None:
        while not self._left.is_set():
            try:
                self._items.put(item, timeout=_POLL_S)
            except Full:
                continue
            return
