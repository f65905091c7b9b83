"""What is kept off the screen while we call transformers, and what is not."""

import io
import logging
from collections.abc import Iterator
from threading import Thread

import pytest
from transformers.utils import logging as theirs

from exporter.recognition.quiet import no_progress_bars, quiet_libraries


@pytest.fixture
def screen() -> Iterator[io.StringIO]:
    """What transformers' own handler shows."""
    library = theirs.get_logger("transformers")
    (handler,) = (each for each in library.handlers if type(each) is logging.StreamHandler)
    shown = io.StringIO()
    before = handler.setStream(shown)
    yield shown
    handler.setStream(before)


def lines(screen: io.StringIO) -> list[str]:
    """What it shows, without the name that newer releases put before each line."""
    return [line.removeprefix("[transformers] ") for line in screen.getvalue().splitlines()]


def test_warnings_of_this_thread_are_dropped_for_the_block(screen: io.StringIO) -> None:
    log = logging.getLogger("transformers.generation.utils")
    with quiet_libraries():
        log.warning("of ours")
        log.error("an error")
        with quiet_libraries():
            log.warning("of ours too")
        log.warning("still of ours")
        other = Thread(target=log.warning, args=("of another thread",))
        other.start()
        other.join()
    log.warning("afterwards")
    assert lines(screen) == ["an error", "of another thread", "afterwards"]


def test_blocks_of_threads_may_end_in_any_order(screen: io.StringIO) -> None:
    log = logging.getLogger("transformers.generation.utils")
    ours, theirs_block = quiet_libraries(), quiet_libraries()
    ours.__enter__()
    theirs_block.__enter__()
    ours.__exit__(None, None, None)
    log.warning("dropped")
    theirs_block.__exit__(None, None, None)
    log.warning("shown")
    assert lines(screen) == ["shown"]


def test_whoever_wants_more_keeps_it(screen: io.StringIO) -> None:
    before = theirs.get_verbosity()
    theirs.set_verbosity_info()
    try:
        with quiet_libraries():
            logging.getLogger("transformers.models").warning("shown")
        assert theirs.get_verbosity() == logging.INFO
    finally:
        theirs.set_verbosity(before)
    assert lines(screen) == ["shown"]


def test_progress_bars_come_back_as_they_were() -> None:
    for wanted in (True, False):
        (theirs.enable_progress_bar if wanted else theirs.disable_progress_bar)()
        try:
            with no_progress_bars():
                assert not theirs.is_progress_bar_enabled()
            assert theirs.is_progress_bar_enabled() == wanted
        finally:
            theirs.enable_progress_bar()
