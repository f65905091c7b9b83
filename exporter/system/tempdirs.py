"""Temporary folders; those of killed processes are removed by the next run."""

import fcntl
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from exporter.system.files import remove
from exporter.system.signals import undisturbed

_NAME = re.compile(r"exporter-step-[0-9a-f]{32}")
_LOCK = "lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """A private folder in the system's place for such; it is gone when the block ends."""
    above = Path(tempfile.gettempdir())
    claim: tuple[Path, IO[bytes]] | None = None
    try:
        with undisturbed():
            _clear(above)
            claim = _claimed(above)
        yield claim[0]
    finally:
        if claim is not None:
            with undisturbed(), claim[1]:
                remove(claim[0])


def _claimed(above: Path) -> tuple[Path, IO[bytes]]:
    """A new folder and, open and locked, the file in it that keeps others from clearing it."""
    while True:
        folder = above / f"exporter-step-{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        try:
            stream = (folder / _LOCK).open("xb")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except FileNotFoundError:  # cleared before it was locked
            continue
        except OSError:
            remove(folder)
            raise
        if os.fstat(stream.fileno()).st_nlink:
            return folder, stream
        stream.close()


def _clear(above: Path) -> None:
    """Remove such folders of this user whose maker is gone: the kernel has dropped its lock."""
    for folder in above.iterdir():
        with suppress(OSError):  # held, or gone meanwhile
            if not _NAME.fullmatch(folder.name) or folder.lstat().st_uid != os.geteuid():
                continue
            with (folder / _LOCK).open("ab") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
