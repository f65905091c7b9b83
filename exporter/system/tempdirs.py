"""Temporary folders; those of killed processes are removed by the next run."""

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exporter.system.files import REMOVED, FileLock, remove, remove_at_once
from exporter.system.signals import undisturbed

_NAME = re.compile(r"exporter-step-[0-9a-f]{32}")
_LOCK = "lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a private temporary folder, which is removed when the block ends."""
    above = Path(tempfile.gettempdir())
    claim: tuple[Path, FileLock] | None = None
    try:
        with undisturbed():
            _clear(above)
            claim = _claimed(above)
        yield claim[0]
    finally:
        if claim is not None:
            with undisturbed(), claim[1]:
                remove(claim[0])


def _claimed(above: Path) -> tuple[Path, FileLock]:
    """Create a folder and hold the lock in it, which keeps other processes from removing it."""
    while True:
        folder = above / f"exporter-step-{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire()
        except FileNotFoundError:  # removed by another process before it was locked
            continue
        except OSError:
            remove(folder)
            raise
        return folder, lock


def _clear(above: Path) -> None:
    """Remove this user's folders of killed processes, whose locks the kernel has released."""
    for folder in above.iterdir():
        with suppress(OSError):  # held, or gone meanwhile
            name = folder.name.removesuffix(REMOVED)
            if not _NAME.fullmatch(name) or folder.lstat().st_uid != os.geteuid():
                continue
            if name != folder.name:  # its removal was cut off
                remove(folder)
                continue
            with FileLock(folder / _LOCK, wait=False):
                remove_at_once(folder)
