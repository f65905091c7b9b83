"""Object stores, through pyarrow's file systems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import IO, Any
from urllib.parse import urlsplit

from exporter.errors import DataError, needing
from exporter.formats.clips.addresses import Remote

_MOST_OBJECTS = 1_000_000


def files_in(source: Remote) -> list[tuple[Remote, int]]:
    """Return the files below a folder, or the one that is named, with their sizes, sorted.

    Raises:
        DataError: The store cannot be reached or read, or there is nothing.
        MachineError: pyarrow is missing.
    """
    system, path = connected(source)
    with reaching(source):
        found = system.get_file_info(path)
        if found.is_file:
            return [(source, found.size)]
        selector = import_module("pyarrow.fs").FileSelector(
            path, recursive=True, allow_not_found=True
        )
        listed = sorted(
            (each.path, each.size) for each in system.get_file_info(selector) if each.is_file
        )
    if len(listed) > _MOST_OBJECTS:
        msg = f"{source}: more than {_MOST_OBJECTS:,} objects: name a folder with fewer"
        raise DataError(msg)
    if not listed:
        msg = f"no clips at {source}: there is nothing under that name"
        raise DataError(msg)
    base = path.rstrip("/") + "/"
    return [(source / name.removeprefix(base), size) for name, size in listed]


@contextmanager
def opened(source: Remote) -> Iterator[IO[bytes]]:
    """Open an object for reading at any place.

    Raises:
        DataError: The store cannot be reached or read.
        MachineError: pyarrow is missing.
    """
    system, path = connected(source)
    with reaching(source), system.open_input_file(path) as stream:
        yield stream


def connected(source: Remote) -> tuple[Any, str]:
    """Return pyarrow's file system of an address, opened once a bucket, and the path in it.

    Raises:
        DataError: The address or its options are wrong.
        MachineError: pyarrow is missing.
    """
    parts = urlsplit(source.url)
    bucket = f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")
    with reaching(source):
        return _file_system(bucket), parts.netloc + parts.path


@contextmanager
def reaching(source: Remote, outcome: str = "cannot be read", advice: str = "") -> Iterator[None]:
    """Raise DataError for a failure of a store in the block.

    Args:
        source: The address that the message names, without its options.
        outcome: What the failure means for it.
        advice: The last line of the message: what to do.
    """
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        msg = f"{source} {outcome}: {reason}" + (f"\n{advice}" if advice else "")
        raise DataError(msg) from error


@lru_cache(maxsize=8)
def _file_system(address: str) -> Any:
    with needing("datasets"):
        systems = import_module("pyarrow.fs")
    system, _ = systems.FileSystem.from_uri(address)
    return system
