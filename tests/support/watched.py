"""What a process does while it is looked at: whom it connects to, and how much memory it takes."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_CALLS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
_called: list[str] = []


@cache
def _listening() -> None:
    """Hear of every connection from now on; Python has no way back from this."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS and getattr(arguments[0], "family", None) != socket.AF_UNIX:
            _called.append(f"{event} {arguments[1:]}")

    sys.addaudithook(hear)


@contextmanager
def connections() -> Iterator[list[str]]:
    """The connections that are tried in the block."""
    _listening()
    before = len(_called)
    tried: list[str] = []
    yield tried
    tried += _called[before:]


def memory_meter() -> Callable[[], int]:
    """Give what tells how many bytes more than now this process has held since, at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is as of now: man 5 proc
    before = _status("VmRSS")
    return lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
