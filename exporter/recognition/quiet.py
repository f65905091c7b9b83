"""Silence warnings and progress bars of transformers while this package calls it.

It warns about arguments that are passed on purpose, and shows a bar over a checkpoint's shards.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LIBRARY = "transformers"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop transformers' warnings from this thread within the block; errors are shown.

    Nothing is dropped if the user made transformers more verbose than by default. A filter is
    added to transformers' own handlers for the block, so that log levels do not change and threads
    do not affect each other.
    """
    library = logging.getLogger(_LIBRARY)
    if library.getEffectiveLevel() < logging.WARNING:
        yield
        return
    own = _DropsWarningsOf(threading.get_ident())
    handlers = list(library.handlers)
    for handler in handlers:
        handler.addFilter(own)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(own)


class _DropsWarningsOf(logging.Filter):
    """A filter that passes errors, and all records of other threads."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.thread != self._thread


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable transformers' progress bars within the block.

    This uses a private flag, because `disable_progress_bar` and `enable_progress_bar` also reset
    the user's setting for the bars of huggingface_hub.
    """
    bars: Any = sys.modules.get(f"{_LIBRARY}.utils.logging")
    if bars is None or not bars.is_progress_bar_enabled():
        yield
        return
    bars._tqdm_active = False
    try:
        yield
    finally:
        bars._tqdm_active = True
