"""How results look on a terminal: plans, verdicts and facts as tables and lines.

Plain functions from results to text, apart from the commands that make the results; drawing is
imported where it is done, since most calls draw nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.progress import shown_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from exporter.artifact import Manifest
    from exporter.cache import Entry
    from exporter.report import Report

# Smaller files of an artifact are told together.
_SMALL = 0.01
_MINUTES_FROM_S = 100


def of_reports(folders: Sequence[Path], reports: Sequence[Report]) -> Table:
    """A row per artifact that was judged."""
    columns = (
        "size (of float32)",
        "original WER",
        "WER",
        "points, 95 %",
        "latency",
        "RTF",
        "load",
        "memory",
    )
    table = _table("artifact", columns, "verdict")
    for folder, report in zip(folders, reports, strict=True):
        table.add_row(f"{report.artifact.recipe}/{folder.name}", *_figures(report))
    return table


def _figures(report: Report) -> Iterator[str]:
    """One row's cells, in the order of the columns."""
    original, ours, points = report.reference_figures, report.figures, report.wer_difference
    yield f"{shown_bytes(ours.size_bytes)} ({ours.size_bytes / original.size_bytes:.0%})"
    yield f"{original.wer:.2%}"
    yield f"{ours.wer:.2%}"
    yield f"{points.value * 100:+.2f} [{points.low * 100:+.2f}, {points.high * 100:+.2f}]"
    yield f"x {report.latency_ratio.value:.2f}"
    yield f"{ours.rtf:.3f}"
    yield f"{ours.load_s:.2f} s"
    yield shown_bytes(ours.peak_rss_bytes)
    yield report.verdict


def of_plan(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per artifact (or kind of artifact) of a plan: what it takes, and whether it can be."""
    columns = ("size", "memory to build", "to load", "disk", "time, about")
    table = _table("artifact" if "artifact" in rows[0] else "kind", columns, "here")
    for row in rows:
        table.add_row(row.get("artifact", row["kind"]), *_needs(row))
    return table


def _needs(row: Mapping[str, Any]) -> Iterator[str]:
    """One plan's cells; what stands already takes nothing, and what cannot be has no figures."""
    yield shown_bytes(row["size_bytes"]) if "size_bytes" in row else "-"
    if "size_bytes" not in row or row.get("action") == "keep":
        yield from "----"
    else:
        for name in ("peak_rss_bytes", "reload_rss_bytes", "disk_bytes"):
            yield shown_bytes(row[name])
        yield duration(row["seconds"] + row["reload_seconds"])
    done = {"keep": "already built, kept", "replace": "yes, replaces what is there"}
    yield f"no: {row['why_not']}" if row["why_not"] else done.get(row.get("action", ""), "yes")


def contents(row: Mapping[str, Any]) -> str:
    """What a planned artifact will be: its options, and its files with their sizes."""
    options = ", ".join(f"{key}={_value(value)}" for key, value in row["options"].items())
    large = [f for f in row["files"] if f["size_bytes"] >= _SMALL * row["size_bytes"]]
    told = [f"{f['path']} {shown_bytes(f['size_bytes'])}" for f in large]
    if small := [f["size_bytes"] for f in row["files"] if f not in large]:
        told.append(f"{len(small)} small files {shown_bytes(sum(small))}")
    return f"{row['artifact']}: {options}\n  {', '.join(told)}"


def room(here: Mapping[str, Any]) -> str:
    """What the machine has, and where the figures come from."""
    memory, disk = (
        shown_bytes(here[f"{name}_bytes"]) for name in ("memory_available", "disk_free")
    )
    return (
        f"Here: {memory} of memory available, {disk} of disk free at {here['place']}.\n"
        f"Memory and time are as measured on {here['figures_measured_on']}."
    )


def built(manifest: Manifest, *, reused: bool) -> str:
    """One artifact's line after a build."""
    if reused:
        return f"{shown_bytes(manifest.size_bytes)}, already built, kept"
    cost = f"{manifest.build.seconds:.0f} s, {shown_bytes(manifest.build.peak_rss_bytes)} of memory"
    return f"{shown_bytes(manifest.size_bytes)}, built in {cost}"


def kept(entry: Entry) -> str:
    """One kept file's line."""
    made = datetime.fromtimestamp(entry.made).astimezone()
    return f"{made:%Y-%m-%d %H:%M}  {shown_bytes(entry.size_bytes):>8}  {entry.what}"


def flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Spread nested mappings into dotted keys, one line each."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key == "files":
            for file in value:
                yield f"{prefix}file", f"{file['path']} ({shown_bytes(file['size_bytes'])})"
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        elif value is None:
            yield prefix + key, "none"
        else:
            yield prefix + key, shown_bytes(value) if key.endswith("_bytes") else str(value)


def line(row: Mapping[str, Any]) -> str:
    """One row of a list; its first value is a path."""
    path, *rest = (text for _, text in flat(row))
    return f"{path}: {', '.join(rest)}"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    return f"{seconds:.0f} s" if seconds < _MINUTES_FROM_S else f"{seconds / 60:.1f} min"


def _value(value: object) -> str:
    """An option's value as a recipe would have it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _table(first: str, numbers: Sequence[str], last: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right")
    table.add_column(last)
    return table
