"""Mend the header of a WAV file that was written as a stream, with 0 for the size of its audio.

Programs that write into a pipe, and recorders that lose power, leave the size as it was at the
start: 0, or the largest number. libsndfile reads the second to the end of the file; this module
turns the first into the second.
"""

from __future__ import annotations

import io
from typing import BinaryIO

_HEAD_BYTES = 1 << 16  # chunks before the audio are small
_UNKNOWN = b"\xff\xff\xff\xff"


def mended(file: BinaryIO) -> io.RawIOBase | None:
    """Return a view of a WAV file whose header says 0 bytes, with the size unknown instead.

    Args:
        file: Any file, at its start, where it is left.

    Returns:
        The view, which closes the file with itself; None for all other files.
    """
    start = file.read(_HEAD_BYTES)
    file.seek(0)
    place = _empty_data(start)
    return None if place is None else _Patched(file, place)


def _empty_data(start: bytes) -> int | None:
    """Return the offset of a size of 0 that audio follows, not another chunk."""
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return None
    place = 12
    while place + 8 < len(start):
        size = int.from_bytes(start[place + 4 : place + 8], "little")
        if start[place : place + 4] == b"data":
            follows = start[place + 8 : place + 12]
            other_chunk = len(follows) == 4 and follows.isascii() and follows.decode().isprintable()
            return place + 4 if size == 0 and follows and not other_chunk else None
        place += 8 + size + size % 2
    return None


class _Patched(io.RawIOBase):
    """A file in which four bytes read as `_UNKNOWN`."""

    def __init__(self, file: BinaryIO, place: int) -> None:
        self._file = file
        self._place = place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read into a buffer, with the four bytes replaced."""
        start = self._file.tell()
        piece = bytearray(self._file.read(len(buffer)))
        for index in range(4):
            at = self._place + index - start
            if 0 <= at < len(piece):
                piece[at] = _UNKNOWN[index]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
