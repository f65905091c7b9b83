"""Format results for a terminal: plans, verdicts and facts as tables and lines.

Functions from results to text, separate from the commands that compute the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter.cli.output.table import Column, Table
from exporter.system.progress import shown_bytes

_MINUTES_FROM_S = 100
_LEAST_REMARK = 16  # columns


def of_plan(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a plan as a table: a row for each artifact (or kind) with its costs and if it fits."""
    columns = ("size", "memory to build", "to load", "disk", "time")
    drawn = table("artifact" if "artifact" in rows[0] else "kind", columns, "here")
    for row in rows:
        drawn.add(row.get("artifact", row["kind"]), *_needs(row))
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


def of_quantization(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a quantization plan as a table: pattern, scheme, modules and bytes of weights."""
    drawn = Table(
        [
            Column("pattern", least=24),
            Column("scheme", least=20),
            *(Column(title, right=True) for title in ("modules", "before", "after")),
        ]
    )
    for row in rows:
        drawn.add(
            row["pattern"] or "(every other)",
            row["label"],
            str(row["modules"]),
            *(shown_bytes(row[f"bytes_{when}"]) for when in ("before", "after")),
        )
    return drawn


def room(here: Mapping[str, Any]) -> tuple[str, str]:
    """Return the lines about this machine's memory and disk, and the estimates' source."""
    memory, disk = (
        shown_bytes(here[f"{name}_bytes"]) for name in ("memory_available", "disk_free")
    )
    return (
        f"Here: {memory} of memory available, {disk} of disk free at {here['place']}.",
        f"Memory and time are estimates, by measurements on {here['figures_measured_on']}.",
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
    return f"{digits(seconds)} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def digits(number: float) -> str:
    """Return a number with three digits, and all those before its point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def option_value(value: object) -> str:
    """Return an option's value as YAML."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(option_value, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def table(first: str, numbers: Sequence[str], remark: str = "") -> Table:
    """Return an empty table: names on the left, figures, and a remark on the right if titled."""
    columns = [Column(first), *(Column(title, right=True) for title in numbers)]
    return Table([*columns, Column(remark, least=_LEAST_REMARK)] if remark else columns)
