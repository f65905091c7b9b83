"""Where results of shards are kept: a folder, or a prefix in an object store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile

from exporter.errors import DataError, RecipeError
from exporter.formats.clips.addresses import Remote
from exporter.formats.clips.remote import connected, opened, reaching
from exporter.system.files import make_folder, read_small, write_atomic
from exporter.system.signals import undisturbed

_NAME = re.compile(r"[0-9a-z][0-9a-z.-]*")  # hidden files are those of unfinished writes
_MOST_BYTES = 1 << 30
_TRIES = 3
_ADVICE = "Give credentials that may write and delete there, or another --store."


@dataclass(frozen=True)
class PartStore:
    """Small files by name, each whole or not there, for several processes and machines at once.

    It can be pickled: whatever is open belongs to a process. Names hold digits, small letters,
    points and dashes, and begin with no point or dash. Files that are empty are no parts. A signal
    that comes while a part is sent to an object store is heard when that is done.

    Attributes:
        address: A folder, which is made by the first write, or an address in an object store.
    """

    address: Path | Remote

    def __str__(self) -> str:
        """Return the address without its options."""
        return str(self.address)

    def anywhere(self) -> PartStore:
        """Return the store with the whole path of its folder, for a process in another folder."""
        place = self.address
        return self if isinstance(place, Remote) else PartStore(place.absolute())

    def require_writable(self) -> None:
        """Make the folder if it is missing, and write there; object stores are not tried.

        Raises:
            RecipeError: The folder cannot be written.
        """
        if not isinstance(self.address, Remote):
            with self._writing():
                make_folder(self.address)
                with TemporaryFile(dir=self.address):
                    pass

    def names(self) -> frozenset[str]:
        """Return the names of all parts; none if the folder is missing.

        Raises:
            DataError: The folder or the store cannot be read.
            MachineError: pyarrow is missing.
        """
        if isinstance(self.address, Remote):
            found = _objects(self.address)
        else:
            with _reading(self.address, "\nGive --store a folder that can be read and written."):
                found = _files(self.address)
        return frozenset(name for name, size in found if size and _NAME.fullmatch(name))

    def read(self, name: str) -> bytes:
        """Return a part.

        Raises:
            DataError: It is missing, empty or longer than 1 GiB, or cannot be read.
            MachineError: pyarrow is missing.
            ValueError: This is no name of a part.
        """
        place = self._place(name)
        if isinstance(place, Remote):
            data = _object(place)
        else:
            with _reading(place):
                data = read_small(place, _MOST_BYTES, DataError, "a part", follow_links=False)
        if not data:
            msg = f"{place} is empty: remove it"
            raise DataError(msg)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a part, whole or not at all, in place of one of this name.

        Raises:
            DataError: The object store refuses it, or cannot be reached.
            MachineError: pyarrow is missing.
            RecipeError: The folder cannot be written.
            ValueError: This is no name of a part, or there are no data.
        """
        if not data:
            msg = f"a part without data: {name}"
            raise ValueError(msg)
        place = self._place(name)
        if isinstance(place, Remote):
            system, path = connected(place)
            # A stream that is left early completes its object, as far as that was written; one that
            # is left open can keep the process from ending.
            with (
                undisturbed(),
                reaching(place, "cannot be written", _ADVICE),
                system.open_output_stream(path) as stream,
            ):
                stream.write(data)
        else:
            with self._writing():
                _write(place, data)

    def remove(self, name: str) -> None:
        """Remove a part, if it is there.

        Raises:
            DataError: The object store refuses it, or cannot be reached.
            MachineError: pyarrow is missing.
            RecipeError: The folder cannot be written.
            ValueError: This is no name of a part.
        """
        place = self._place(name)
        if isinstance(place, Remote):
            system, path = connected(place)
            with reaching(place, "cannot be removed", _ADVICE):
                if system.get_file_info(path).is_file:
                    system.delete_file(path)
        else:
            with self._writing():
                place.unlink(missing_ok=True)

    def _place(self, name: str) -> Path | Remote:
        if not _NAME.fullmatch(name):
            msg = f"no name of a part: {name[:200]!r}"
            raise ValueError(msg)
        return self.address / name

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = f"{self} cannot be written ({error.strerror}): give another folder to --store"
            raise RecipeError(msg) from error


@contextmanager
def _reading(place: Path, advice: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{place} cannot be read: {error.strerror}{advice}"
        raise DataError(msg) from error


def _files(folder: Path) -> list[tuple[str, int]]:
    """Return the names and sizes of the files directly in a folder; links are none."""
    try:
        with os.scandir(folder) as entries:
            files = [each for each in entries if each.is_file(follow_symlinks=False)]
            return [(each.name, each.stat(follow_symlinks=False).st_size) for each in files]
    except FileNotFoundError:
        return []


def _objects(folder: Remote) -> list[tuple[str, int]]:
    """Return the names and sizes of the objects directly under a prefix."""
    system, path = connected(folder)
    with reaching(folder):
        selector = import_module("pyarrow.fs").FileSelector(path, allow_not_found=True)
        found = system.get_file_info(selector)
    return [(each.base_name, each.size) for each in found if each.is_file]


def _object(place: Remote) -> bytes:
    with opened(place) as stream:
        if stream.seek(0, os.SEEK_END) > _MOST_BYTES:
            msg = f"{place}: larger than {_MOST_BYTES} bytes: not a part"
            raise DataError(msg)
        stream.seek(0)
        return stream.read()


def _write(path: Path, data: bytes) -> None:
    """Write a file, also where another machine, which sees no locks of this one, clears up."""
    for left in reversed(range(_TRIES)):
        try:
            make_folder(path.parent)
            write_atomic(path, data)
        except FileNotFoundError:
            if not left:
                raise
        else:
            return
