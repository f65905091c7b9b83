"""Tables as lines of text: no number is ever shortened, whatever the width."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from exporter.system.text import harmless, width_of

_GAP = 2
_BREAK = re.compile(r"(?<!\d) ")
# Columns of a name or remark that stands beside others, and that has a block of its own.
_NARROW, _NARROWEST = 24, 8


@dataclass(frozen=True)
class Column:
    """A column of a table; only one with `least` is wrapped, to no fewer columns than that."""

    title: str
    right: bool = False
    least: int | None = None


@dataclass
class Table:
    """A table whose first column names its rows.

    Where it is too wide it is turned on its side, with a column for each row, as many as fit: in
    the end a block for each row.
    """

    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append([harmless(cell) for cell in cells])

    def lines(self, width: int | None) -> list[str]:
        """Return the table's lines for a terminal of `width` columns; None: as wide as it is."""
        if width is None or not self.rows or self._fits(width):
            return list(self._drawn(width))
        for parts in range(1, len(self.rows) + 1):
            sides = list(self._on_its_side(math.ceil(len(self.rows) / parts)))
            if all(side._fits(width) for side in sides):
                break
        first, *others = (list(side._drawn(width)) for side in sides)
        return [*first, *(line for side in others for line in ("", *side))]

    def _fits(self, width: int) -> bool:
        return _total(self._widths(width)) <= width

    def _on_its_side(self, count: int) -> Iterator[Table]:
        """Yield tables with a column for each of at most `count` rows, named without its folder."""
        names = _short([row[0] for row in self.rows])
        wrapped = [column.least is not None for column in self.columns]
        least = _NARROW if count > 1 else _NARROWEST
        for start in range(0, len(names), count):
            inside = self.rows[start : start + count]
            columns = [Column(self.columns[0].title)]
            for name, row in zip(names[start:], inside, strict=False):
                whole = [c for c, wraps in zip(row, wrapped, strict=True) if not wraps][1:]
                columns.append(Column(name, least=max([least, *map(width_of, whole)])))
            side = Table(columns)
            for place, column in enumerate(self.columns[1:], start=1):
                side.rows.append([column.title, *(row[place] for row in inside)])
            yield side

    def _widths(self, width: int | None) -> list[int]:
        """Return the columns' widths, with texts wrapped as far as a terminal of `width` needs."""
        cells = list(zip(*[[column.title for column in self.columns], *self.rows], strict=True))
        widths = [max(map(width_of, texts)) for texts in cells]
        for place in sorted(range(len(widths)), key=lambda place: -widths[place]):
            least = self.columns[place].least
            if width is not None and least is not None and widths[place] > least:
                widths[place] = max(least, widths[place] - max(0, _total(widths) - width))
        return widths

    def _drawn(self, width: int | None) -> Iterator[str]:
        widths = self._widths(width)
        yield from self._row([column.title for column in self.columns], widths)
        yield "─" * _total(widths)
        for row in self.rows:
            yield from self._row(row, widths)

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        parts = [wrapped(text, width) for text, width in zip(cells, widths, strict=True)]
        for line in zip_longest(*parts, fillvalue=""):
            padded = (
                _padded(text, width, right=column.right)
                for text, width, column in zip(line, widths, self.columns, strict=True)
            )
            yield (" " * _GAP).join(padded).rstrip()


def wrapped(text: str, width: int, indent: str = "", *, divide: bool = True) -> list[str]:
    """Return a harmless text in lines of at most `width` columns.

    Lines end at spaces, but not at one after a digit, which may have its unit behind it.

    Args:
        text: One line.
        width: Columns of a terminal.
        indent: What stands before every line but the first.
        divide: Divide words that are wider than a line; otherwise they stick out.
    """
    first, *words = _BREAK.split(text.lstrip(" "))
    lines = [" " * (len(text) - len(text.lstrip(" "))) + first]
    for word in words:
        if width_of(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(indent + word)
    return [part for line in lines for part in _divided(line, width)] if divide else lines


def _divided(line: str, width: int) -> Iterator[str]:
    while width_of(line) > width:
        head = _head(line, width)
        yield head
        line = line[len(head) :]
    yield line


def _head(text: str, width: int) -> str:
    """Return the longest beginning of a text that takes at most `width` columns."""
    count = min(width, len(text))
    while count > 1 and width_of(text[:count]) > width:
        count -= 1
    while count < len(text) and not width_of(text[count]):  # marks stay with their letter
        count += 1
    return text[:count]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def _short(names: Sequence[str]) -> list[str]:
    """Return the last parts of paths, or the paths where these are not distinct."""
    parts = [name.rpartition("/")[2] for name in names]
    return parts if len(set(parts)) == len(parts) else list(names)
