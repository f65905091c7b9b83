"""Write files and folders atomically, so that they survive a loss of power.

A rename is the moment from which something is there; everything below it is on the disk before
that, and the rename itself afterwards. What a process that died has left half-written is told from
what a living one is writing by a lock, which the kernel drops with its holder.
"""

import ctypes
import errno
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

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


def file_lock(path: Path, wait_s: float = -1) -> FileLock:
    """Return a lock on a file, to be used as a context manager.

    It is the kernel's (flock), which drops it when its holder dies, however that happens. The file
    is made where it is missing, and stays; it is not truncated, and a link is not followed.

    Args:
        path: The file that is locked.
        wait_s: Seconds to wait for another holder, then `filelock.Timeout` is raised; for ever if
            negative.
    """
    return FileLock(path, timeout=wait_s, fallback_to_soft=False)


def read_small(
    path: Path,
    most_bytes: int,
    error: Callable[[str], Exception],
    what: str,
    *,
    follow_links: bool = True,
) -> bytes:
    """Read a regular file that is meant to be small, and that anybody may have written.

    Args:
        path: The file.
        most_bytes: How large it may be.
        error: Makes the error to raise of a message.
        what: What the file is to be, with its article, for messages.
        follow_links: Whether `path` itself may be a link.

    Returns:
        All of its bytes.

    Raises:
        OSError: Where it is not there, is a folder, or cannot be read.
        Exception: Whatever `error` makes, for a pipe, a device, a link that is not followed, and
            for a file that is too large.
    """
    # A pipe without a writer would be waited for in open() already.
    more = os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | more)) as stream:
            regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            data = stream.read(most_bytes + 1) if regular else b""
    except OSError as failure:
        if failure.errno not in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
            raise
        regular = False
    if not regular:
        linked = path.is_symlink() and not follow_links
        msg = f"{path} is {'a link' if linked else 'no regular file'}, where {what} is expected"
        raise error(msg)
    if len(data) > most_bytes:
        msg = f"{path}: larger than {most_bytes} bytes: not {what}"
        raise error(msg)
    return data


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    What killed processes have left half-written beside it is removed.
    """
    copy_atomic(io.BytesIO(data), path)


def copy_atomic(source: IO[bytes], path: Path) -> None:
    """Write what is left of an open file, a piece at a time; else as `write_atomic`."""
    _clear(path.parent)
    partial = partial_of(path)
    try:
        # While the lock is held, `_clear` of another process leaves the file alone.
        with file_lock(partial), partial.open("r+b") as stream:
            shutil.copyfileobj(source, stream)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def _clear(folder: Path) -> None:
    """Remove half-written files that nobody holds."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError, Timeout), file_lock(path, wait_s=0):  # held, or gone meanwhile
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
    elif not _exchanged(folder, final):  # NFS, for one: for a moment nothing is there
        aside = partial_of(final)
        final.rename(aside)
        folder.rename(final)
        aside.rename(folder)
    sync(final.parent)


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
