"""Signals: SIGINT and SIGTERM, handled once and not during cleanup, and a limit of time."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BOTH = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 3.0
_limited = False


class Terminated(SystemExit):
    """SIGTERM, as an exception, so that half-built folders are removed on the way out."""


def listen() -> None:
    """Let SIGINT raise KeyboardInterrupt, and SIGTERM Terminated.

    A second signal within three seconds is ignored, so that pressing Ctrl-C twice does not
    interrupt the cleanup. Signals that the calling shell ignores stay ignored.
    """
    last = -_PATIENCE_S

    def hear(number: int, _frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PATIENCE_S:
            last = now
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(143)

    for each in _BOTH:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, hear)


def leave() -> None:
    """Ignore further signals, so that the process ends with its chosen exit code."""
    for each in _BOTH:
        signal.signal(each, signal.SIG_IGN)


def end_at_limits() -> None:
    """Let `time_limit` end this process, which runs one step."""
    global _limited
    _limited = True
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let the kernel end a step's process if a block takes longer, even inside native code.

    Other processes are not limited: their alarms belong to the user.
    """
    if not _limited:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay interrupts until the end of a block that cleans up.

    Python handles signals in its main thread only, so in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {each: signal.getsignal(each) for each in _BOTH}
    for each in _BOTH:
        signal.signal(each, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
