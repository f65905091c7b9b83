"""Parts of runs that did not end, kept in the cache so that the same command goes on there."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from exporter.engine.part_store import PartStore
from exporter.system import user_dirs
from exporter.system.build_cache import Entry
from exporter.system.files import FileLock, make_folder, remove_at_once

_log = logging.getLogger(__name__)
_LOCK = "lock"


def folder() -> Path:
    """Return the folder of the parts of unfinished runs."""
    return user_dirs.place() / "parts"


@contextmanager
def store(key: str, otherwise: Path) -> Iterator[PartStore]:
    """Yield the store of a run; its parts are removed when the block ends without an error.

    Args:
        key: The name of the run, the same for runs that do the same.
        otherwise: A temporary folder to use if the cache cannot be written, or if an equal run is
            at work.
    """
    with ExitStack() as held:
        place = _claimed(folder() / key, held)
        yield PartStore(place or otherwise / "parts")
        if place is not None:
            remove_at_once(place)


def _claimed(place: Path, held: ExitStack) -> Path | None:
    """Lock a run's folder, so that no other run removes it; None if that cannot be."""
    try:
        make_folder(place, 0o700)
        if not user_dirs.owned(place):
            return None
        held.enter_context(FileLock(place / _LOCK, wait=False))
    except BlockingIOError:
        return None
    except OSError as error:
        _log.warning("a run that is killed cannot go on later: %s", error)
        return None
    return place


def entries() -> list[Entry]:
    """Return the folders of unfinished runs."""
    return [_entry(place) for place in _places()]


def clear() -> int:
    """Remove the parts of unfinished runs; return their bytes."""
    freed = 0
    for place in _places():
        with suppress(BlockingIOError), FileLock(place / _LOCK, wait=False):  # held: a run needs it
            freed += _entry(place).size_bytes
            remove_at_once(place)
    return freed


def _entry(place: Path) -> Entry:
    """Describe a run's folder, in which the run may be at work."""
    sizes, made = list[int](), 0.0
    with suppress(FileNotFoundError):
        made = place.stat().st_mtime
        for path in place.iterdir():
            with suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
    return Entry(place, "parts of an unfinished validation", sum(sizes), made)


def _places() -> Iterator[Path]:
    here = folder()
    yield from sorted(each for each in here.iterdir() if each.is_dir()) if here.is_dir() else ()
