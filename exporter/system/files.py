"""Write files and folders atomically, so that they survive a loss of power.

A rename is the moment from which something is there; everything below it is on the disk before
that, and the rename itself afterwards. What a process that died has left half-written is told from
what a living one is writing by a lock, which the kernel drops with its holder.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
# A file system, or a system, that cannot exchange two names says one of these.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV}
_TRIES = 10


def partial_of(path: Path) -> Path:
    """A fresh hidden name beside `path`, for what will be renamed to it."""
    return path.with_name(f".{path.name}.partial-{uuid.uuid4().hex}")


def partial_name(name: str) -> str:
    """A regular expression for the names that `partial_of` gives; `name` is one, too."""
    return rf"\.{name}\.partial-[0-9a-f]{{32}}"


_PARTIAL = re.compile(partial_name(".+"))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    What killed processes have left half-written beside it is removed.
    """
    _clear(path.parent)
    partial = partial_of(path)
    try:
        with _made(partial) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def _made(path: Path) -> Iterator[IO[bytes]]:
    """A new file, locked while it is open: `_clear` of another process leaves it alone."""
    while True:
        with path.open("xb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if os.fstat(stream.fileno()).st_nlink:  # else it was cleared before it was locked
                yield stream
                return


def _clear(folder: Path) -> None:
    """Remove half-written files that nobody holds."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError), path.open("rb") as stream:  # held, or gone meanwhile
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it that are missing, to stay."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in reversed(missing):
        sync(made.parent)


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Bring everything in a folder to the disk."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def replace_dir_atomically(folder: Path, final: Path) -> None:
    """Bring a folder to the disk and then to `final`, in one step also where something stands.

    That is in `folder` afterwards. The caller holds a lock on the place.
    """
    _sync_tree(folder)
    if not final.exists():
        folder.rename(final)
    elif not _exchanged(folder, final):
        _replace(folder, final)
    sync(final.parent)


def _replace(folder: Path, final: Path) -> None:
    """In two steps, for file systems that know no exchange; for a moment nothing is there.

    What stood there comes back if this fails, or, should the process die between the two renames,
    by `recover`.
    """
    final.rename(_aside(final))
    try:
        folder.rename(final)
    finally:
        recover(final)


def recover(final: Path) -> None:
    """Undo, or finish, a replacement in two steps that was cut off."""
    old = _aside(final)
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.replaced")


def _exchanged(one: Path, other: Path) -> bool:
    """Give each of two paths what the other has, in one step; False where that cannot be."""
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if not call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def remove(folder: Path) -> None:
    """Remove a folder, also one in which a compiler that lost its parent still writes a file."""
    for left in reversed(range(_TRIES)):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:
                raise
        else:
            return


def sha256_file(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
