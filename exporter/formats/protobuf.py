"""Read protobuf messages from a file field by field, within a budget.

The protobuf library would read a whole graph with its weights into memory, and nested messages
until its stack overflows. Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import NamedTuple

_MAX_TEXT_BYTES = 16 << 10
_MAX_VARINT_BYTES = 10
_MAX_NUMBER = (1 << 29) - 1
_FIXED = {1: 8, 5: 4}
_VARINT, _LENGTH = 0, 2


class DamagedError(ValueError):
    """Bytes that are no valid message, or a message beyond the limits."""


class Field(NamedTuple):
    """A field's number and kind, its bytes' place in the file, and its value if it is a number."""

    number: int
    kind: int
    begin: int
    end: int
    value: int


@dataclass
class Budget:
    """The number of fields that may still be read from all files: a few seconds of reading."""

    left: int = 3_000_000


class Wire:
    """Reads the messages in a file's bytes, within a budget."""

    def __init__(self, data: mmap | bytes, budget: Budget) -> None:
        self._data = data
        self._budget = budget

    def whole(self) -> Field:
        """Return the file as one message."""
        return Field(0, _LENGTH, 0, len(self._data), 0)

    def fields(self, message: Field, wanted: Container[int] | None = None) -> Iterator[Field]:
        """Yield the fields of a message, in order.

        Args:
            message: The message.
            wanted: The numbers of those to yield; None: all.

        Raises:
            DamagedError: The bytes are no message, or the budget is used up.
        """
        place, end = self._bytes(message)
        while place < end:
            self._budget.left -= 1
            if self._budget.left < 0:
                msg = "more parts than any model has: not read"
                raise DamagedError(msg)
            key, place = self._varint(place, end)
            number, kind = key >> 3, key & 7
            if not 0 < number <= _MAX_NUMBER:
                msg = f"no message at byte {place}"
                raise DamagedError(msg)
            value = 0
            if kind == _VARINT:
                value, after = self._varint(place, end)
            elif kind == _LENGTH:
                length, place = self._varint(place, end)
                after = place + length
            elif kind in _FIXED:
                after = place + _FIXED[kind]
            else:  # groups, which ONNX does not use
                msg = f"no message at byte {place}"
                raise DamagedError(msg)
            if after > end:
                msg = f"a field at byte {place} needs {after - place} bytes, {end - place} are left"
                raise DamagedError(msg)
            if wanted is None or number in wanted:
                yield Field(number, kind, place, after, value)
            place = after

    def numbers(self, field: Field) -> Iterator[int]:
        """Yield the value of a number's field, or the values of a packed one."""
        if field.kind == _VARINT:
            yield field.value
            return
        place = field.begin
        while place < field.end:
            value, place = self._varint(place, field.end)
            yield value

    def text(self, field: Field) -> str:
        """Return a field as text; raise DamagedError if it is too long."""
        begin, end = self._bytes(field)
        if end - begin > _MAX_TEXT_BYTES:
            msg = f"a name of {end - begin} bytes"
            raise DamagedError(msg)
        return bytes(self._data[begin:end]).decode("utf-8", "replace")

    def _bytes(self, field: Field) -> tuple[int, int]:
        """Return begin and end of a text or message; raise DamagedError for another kind."""
        if field.kind != _LENGTH:
            msg = f"a number where a text or a message belongs, at byte {field.begin}"
            raise DamagedError(msg)
        return field.begin, field.end

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        if place < end and (byte := self._data[place]) < 128:  # as most are
            return byte, place + 1
        value = 0
        for count in range(_MAX_VARINT_BYTES):
            if place >= end:
                break
            byte = self._data[place]
            place += 1
            value |= (byte & 127) << 7 * count
            if byte < 128:
                return value, place
        msg = f"no number at byte {place}"
        raise DamagedError(msg)
