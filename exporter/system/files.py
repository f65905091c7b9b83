"""Write files and folders atomically, so that they survive a loss of power.

Data is synced to disk before it is renamed to its place, and the rename is synced after. A lock
distinguishes partial files of killed processes from those being written: the kernel releases it
when its holder dies.
"""

import ctypes
import errno
import fcntl
import hashlib
import io
import mmap
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from exporter.errors import IntegrityError
from exporter.system.text import python_escape

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
# The errors of kernels and file systems that cannot exchange two names.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV}
# Those of file systems without locks, as Lustre and NFS may be mounted.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
_TRIES = 10
_ESCAPED = re.compile("[\udc80-\udcff]")  # what `os.fsdecode` makes of bytes that are not UTF-8


def partial_of(path: Path) -> Path:
    """Return a new hidden path beside `path`, for a file or folder to be renamed to it."""
    return path.with_name(f".{path.name}.partial-{uuid.uuid4().hex}")


def partial_name(name: str) -> str:
    """Return a regular expression for names from `partial_of`; `name` is one of the final name."""
    return rf"\.{name}\.partial-[0-9a-f]{{32}}"


_PARTIAL = re.compile(partial_name(".+"))


class FileLock:
    """A lock on a file, and a context manager that holds it.

    It is the kernel's (flock), which releases it when its holder dies. A missing file is created
    and stays; an existing one is not truncated, and a link is not followed.
    """

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        """Describe a lock.

        Args:
            path: The file to lock.
            wait: Wait for another holder, in place of raising BlockingIOError.
        """
        self._path = path
        self._how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Acquire the lock, unless it is held by this object already.

        Raises:
            BlockingIOError: Another process or another lock of this one holds it, and `wait` is
                False.
            OSError: The file cannot be opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while self._descriptor is None:
            descriptor = os.open(self._path, flags, 0o644)
            try:
                fcntl.flock(descriptor, self._how)
                if os.fstat(descriptor).st_nlink:  # else it was removed before it was locked
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def __enter__(self) -> Self:
        """Acquire the lock; raises as `acquire`."""
        self.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def read_small(
    path: Path,
    most_bytes: int,
    error: Callable[[str], Exception],
    what: str,
    *,
    follow_links: bool = True,
) -> bytes:
    """Read a small regular file that may come from an untrusted source.

    Args:
        path: The file.
        most_bytes: The largest accepted size.
        error: Returns the error to raise for a message.
        what: A description of the expected file, with its article, for messages.
        follow_links: Allow `path` itself to be a link.

    Returns:
        All of its bytes.

    Raises:
        OSError: The file is missing, is a folder, or cannot be read.
        Exception: The one of `error`, for a pipe, a device, a link that is not followed, or a file
            that is too large.
    """
    # Without O_NONBLOCK, open() would wait for a pipe's writer.
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

    Partial files of killed processes in the same folder are removed.

    Raises:
        OSError: The file cannot be written.
    """
    copy_atomic(io.BytesIO(data), path)


def copy_atomic(source: IO[bytes], path: Path) -> None:
    """Copy the rest of an open file to `path` in pieces; otherwise like `write_atomic`."""
    with _partial(path) as (partial, stream):
        shutil.copyfileobj(source, stream)
        _flush(stream)
        partial.replace(path)
    sync(path.parent)


def create_private(path: Path, data: bytes) -> None:
    """Create a file that nobody else can read, complete from its first moment.

    Raises:
        FileExistsError: Something has this name, be it a link; it stays as it is.
        OSError: The file cannot be written.
    """
    _clear(path.parent)  # also where the file is there: it has two names if its maker was killed
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _partial(path) as (partial, stream):
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        _flush(stream)
        os.link(partial, path, follow_symlinks=False)
    sync(path.parent)


@contextmanager
def _partial(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Yield a new hidden file beside `path`, open; it is removed unless it was renamed."""
    _clear(path.parent)
    partial = partial_of(path)
    try:
        with _spared(partial), partial.open("r+b") as stream:
            yield partial, stream
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _spared(partial: Path) -> Iterator[None]:
    """Create a file that `_clear` of another process leaves alone while the block runs.

    It does where the file is locked, and where the file system has no locks.
    """
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(partial))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _clear(folder: Path) -> None:
    """Remove partial files whose lock nobody holds."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError), FileLock(path, wait=False):  # held, or gone meanwhile
                path.unlink(missing_ok=True)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder and its missing parents, all with `mode`, and sync them to disk."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for created in reversed(missing):
        created.mkdir(mode=mode, exist_ok=True)
        sync(created.parent)
    path.mkdir(exist_ok=True)  # raises an error for a file in its place


def require_no_link(path: Path, named: Path) -> None:
    """Raise IntegrityError if a path leads through a link below a folder that the user named.

    That folder may be a link. One below it, at a name that is made up here, was put there by
    somebody else (in a cloned repository, for example), and would lead what is written elsewhere.

    Args:
        path: A path below `named`, which may be missing.
        named: The folder that the user named.
    """
    for part in reversed([path, *path.parents[: len(path.relative_to(named).parts) - 1]]):
        if part.is_symlink():
            msg = (
                f"{part} is a link, and nothing is written through links in {named}.\n"
                "Remove it, or choose another place (which itself may be a link)."
            )
            raise IntegrityError(msg)


def sync(path: Path) -> None:
    """Sync a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Sync everything in a folder to disk."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def replace_dir_atomically(folder: Path, final: Path) -> None:
    """Sync a folder to disk and move it to `final`, in one step if the kernel can exchange names.

    A folder that was at `final` is at `folder` afterwards. The caller must hold a lock on `final`.

    Args:
        folder: The new folder, on the same file system.
        final: Its place, which may hold an older folder.
    """
    _sync_tree(folder)
    if not final.exists():
        folder.rename(final)
    elif not _exchanged(folder, final):  # on NFS, for example: for a moment `final` does not exist
        aside = partial_of(final)
        final.rename(aside)
        folder.rename(final)
        aside.rename(folder)
    sync(final.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return False if the system cannot."""
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
    """Remove a folder, also while a compiler of a killed process still writes into it.

    A link, or whatever else has its name, is removed itself.
    """
    for left in reversed(range(_TRIES)):
        try:
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink()
            else:
                shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:
                raise
        else:
            return


def remove_files(paths: Iterable[Path]) -> int:
    """Remove files, and return their bytes; a link counts as itself."""
    freed = 0
    for path in paths:
        freed += path.lstat().st_size
        path.unlink(missing_ok=True)
    return freed


def remove_at_once(folder: Path) -> None:
    """Remove a folder so that nobody sees a part of it: it gets another name first.

    A lock in it that is held does not suffice: between the removal of that file and of the folder,
    another process would make and hold a new one.
    """
    aside = folder.with_name(f"{folder.name}{REMOVED}")
    folder.rename(aside)
    remove(aside)


REMOVED = ".removed"
_MAPPED_AT_ONCE = 64 << 20  # of a file to hash


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_mapped(path: Path) -> str:
    """Return the same for a thread beside others, which keep the interpreter's lock for long.

    Reading takes the lock twice for each buffer, and waits up to 5 ms for it. Pages that are mapped
    are hashed without it. As for all mapped files, the process ends if the file is cut meanwhile.

    Raises:
        ValueError: It was cut before it was mapped.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        for offset in range(0, size, _MAPPED_AT_ONCE):
            length = min(_MAPPED_AT_ONCE, size - offset)
            with mmap.mmap(
                stream.fileno(), length, access=mmap.ACCESS_READ, offset=offset
            ) as pages:
                digest.update(pages)
    return digest.hexdigest()


def readable_name(name: str) -> str:
    r"""Return a file name as valid text: bytes that are not UTF-8 become `\xNN`."""
    return _ESCAPED.sub(lambda byte: python_escape(byte[0]), name)


def require_utf8(folder: Path, error: Callable[[str], Exception]) -> None:
    """Refuse a folder whose path is not UTF-8, because safetensors and tokenizers cannot open it.

    Raises:
        Exception: The one of `error`.
    """
    whole = str(folder.resolve())
    if (readable := readable_name(whole)) != whole:
        msg = f"{readable}: the path is not UTF-8, and libraries cannot open it: rename the folder"
        raise error(msg)
