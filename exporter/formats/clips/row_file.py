"""A file of JSON lines with random access."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RowFile:
    """A file of JSON lines with random access: rows are written once, in order.

    Only the rows' byte offsets are held in memory, 8 bytes each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("q")
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of the bytes written so far."""
        return self._hash.hexdigest()

    @contextmanager
    def writing(self) -> Iterator[Callable[[object], None]]:
        """Open the file, which must be new or ours, and yield the function that appends a row."""
        with self.path.open("ab" if self.offsets else "xb") as stream:

            def write(row: object) -> None:
                text = json.dumps(row, ensure_ascii=False) + "\n"
                line = text.encode(errors="surrogatepass")  # paths need not be UTF-8
                self.offsets.append(stream.tell())
                self._hash.update(line)
                stream.write(line)

            yield write

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Any:
        return next(rows_from(self.path, self.offsets[index]))

    def __iter__(self) -> Iterator[Any]:
        return rows_from(self.path)

    def some(self, places: Iterable[int]) -> Iterator[Any]:
        """Yield rows by their places; fastest in the order of the file."""
        with self.path.open("rb") as stream:
            for place in places:
                stream.seek(self.offsets[place])
                yield json.loads(stream.readline())


def rows_from(path: Path, offset: int = 0) -> Iterator[Any]:
    """Yield the rows of a file of JSON lines, from the one that begins at `offset` bytes."""
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            yield json.loads(line)
