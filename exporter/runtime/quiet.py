"""Keep what transformers says about its own affairs off the screen while we call it.

It warns of arguments that we give on purpose, and draws a bar over the shards of a checkpoint.
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
    """Drop transformers' warnings from this thread for one block; errors pass.

    So does everything where the user made transformers more verbose than it is by default. Only
    the handlers that transformers shows its messages with are touched, each by a filter of this
    block, so that levels stay what they are and threads do not disturb one another.
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
    """Lets errors through, and what other threads say."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.thread != self._thread


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch transformers' own progress bars off for one block.

    By its private switch: `disable_progress_bar` and `enable_progress_bar` also reset what the user
    chose for the bars of huggingface_hub.
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
