"""Format results for a terminal: plans, verdicts and facts as tables and lines.

Functions from results to text, separate from the commands that compute the results. rich is
imported inside functions, since most calls draw nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from rich.table import Table


_MINUTES_FROM_S = 100
_MOST_NARROW = 24  # width of a cell in a transposed table


def of_plan(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a plan as a table: a row for each artifact (or kind) with its costs and if it fits."""
    columns = ("size", "memory to build", "to load", "disk", "time")
    drawn = table("artifact" if "artifact" in rows[0] else "kind", columns, "here")
    for row in rows:
        drawn.add_row(row.get("artifact", row["kind"]), *_needs(row))
    return drawn


def _needs(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield a row's cells; an artifact that is kept costs nothing."""
    yield shown_bytes(row["size_bytes"]) if "size_bytes" in row else "-"
    if "size_bytes" not in row or row.get("action") == "keep":
        yield from "----"
    else:
        for name in ("peak_rss_bytes", "reload_rss_bytes", "disk_bytes"):
            yield shown_bytes(row[name])
        yield duration(row["seconds"] + row["reload_seconds"])
    done = {"keep": "already built, kept", "replace": "yes, replaces what is there"}
    yield f"no: {row['why_not']}" if row["why_not"] else done.get(row.get("action", ""), "yes")


_PLAN_WIDTHS = (24, 21)  # together with the numbers, a table of 80 columns


def of_quantization(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a quantization plan as a table: pattern, scheme, modules and bytes of weights."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, width in zip(("pattern", "scheme"), _PLAN_WIDTHS, strict=True):
        drawn.add_column(title, max_width=width, overflow="fold")
    for title in ("modules", "before", "after"):
        drawn.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(
            row["pattern"] or "(every other)",
            row["label"],
            str(row["modules"]),
            *(shown_bytes(row[f"bytes_{when}"]) for when in ("before", "after")),
        )
    return drawn


def room(here: Mapping[str, Any]) -> str:
    """Return the lines about this machine's memory and disk, and the estimates' source."""
    memory, disk = (
        shown_bytes(here[f"{name}_bytes"]) for name in ("memory_available", "disk_free")
    )
    return (
        f"Here: {memory} of memory available, {disk} of disk free at {here['place']}.\n"
        f"Memory and time are estimates, by measurements on {here['figures_measured_on']}."
    )


def flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested mappings into pairs of dotted key and text."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key == "files":
            for file in value:
                yield f"{prefix}file", f"{file['path']} ({shown_bytes(file['size_bytes'])})"
        elif key == "quantization":
            for group in value:
                parameters = (f"{n} {option_value(v)}" for n, v in group["parameters"].items())
                scheme = ", ".join([group["scheme"], *parameters])
                yield prefix + key, f"{scheme}: {len(group['modules'])} modules"
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        elif value is None:
            yield prefix + key, "none"
        else:
            yield prefix + key, shown_bytes(value) if key.endswith("_bytes") else str(value)


def duration(seconds: float) -> str:
    """Return seconds or minutes as text."""
    return f"{seconds:.0f} s" if seconds < _MINUTES_FROM_S else f"{seconds / 60:.1f} min"


def moment(seconds: float) -> str:
    """Return a short time in milliseconds or seconds, with three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def option_value(value: object) -> str:
    """Return an option's value as YAML."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(option_value, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def table(first: str, numbers: Sequence[str], last: str) -> Table:
    """Return an empty table: names on the left, figures, and a remark on the right."""
    drawn = _empty(first)
    for title in numbers:
        drawn.add_column(title, justify="right")
    drawn.add_column(last)
    return drawn


def fitted(wide: Table, width: int) -> list[Table]:
    """Return `wide` if it fits into `width` columns, else tables with a column per row of it."""
    if wide.row_count == 0 or _width(wide) <= width:
        return [wide]
    for parts in range(1, wide.row_count):
        tables = list(_transposed(wide, math.ceil(wide.row_count / parts)))
        if max(map(_width, tables)) <= width:
            return tables
    return list(_transposed(wide, 1))


def _width(drawn: Table) -> int:
    from rich.console import Console

    console = Console(width=10_000)
    return console.measure(drawn).maximum


def _transposed(wide: Table, count: int) -> Iterator[Table]:
    """Turn rows into columns, at most `count` in a table, named by the last part of their path."""
    names, *figures = wide.columns
    titles = list(map(str, names.cells))
    parts = [title.rpartition("/")[2] for title in titles]
    if len(set(parts)) == len(parts):
        titles = parts
    for start in range(0, len(titles), count):
        drawn = _empty(str(names.header))
        for title in titles[start : start + count]:
            drawn.add_column(title, max_width=_MOST_NARROW, overflow="fold")
        for column in figures:
            drawn.add_row(str(column.header), *list(column.cells)[start : start + count])
        yield drawn


def _empty(first: str) -> Table:
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column(first, no_wrap=True)
    return drawn
