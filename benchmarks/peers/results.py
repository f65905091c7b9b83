"""The figures of benchmarks/peers/run.py: kept in one JSON file, told as Markdown tables.

A file belongs to one machine. Every row names its run: a ratio of two runs is told as such.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.build_cost.results import save_results
from benchmarks.peers.rounds import WINDOW_S, Setting
from benchmarks.peers.systems import RIVALS, Rival
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.system.hardware import describe

__all__ = [
    "cells",
    "each_shape",
    "entry_for",
    "figures",
    "open_results",
    "place",
    "ratios",
    "require_entries",
    "save_results",
    "tables",
    "title",
]

LARGE = 600_000_000  # parameters from which the targets for large shapes hold
OPENVINO = ("openvino-bf16", "openvino-f32", "optimum-intel")


@dataclass(frozen=True)
class Target:
    """At most so many times a rival's seconds; against several, the fastest counts.

    `large` is None where it is enough, for large shapes, that ours is there and theirs is not.
    """

    ours: str
    theirs: tuple[str, ...]
    small: float
    large: float | None


@dataclass(frozen=True)
class Ratio:
    """One target at one setting: what was measured, and whether it is met (None: not measured)."""

    target: Target
    against: str
    value: float | None
    limit: float | None
    met: bool | None
    one_run: bool


TARGETS = (
    Target("aoti", ("faster-whisper",), 0.30, 0.40),
    Target("aoti", OPENVINO, 0.38, 0.50),
    Target("onnx-int8", ("optimum",), 0.35, None),
    Target("onnx-int8", ("faster-whisper",), 0.55, 0.65),
    Target("torch-int8", ("eager",), 0.40, 0.40),
)


def open_results(path: Path) -> dict[str, Any]:
    """Read the file to go on with it, or begin a new one."""
    machine = describe().as_dict()
    if not path.exists():
        return {"machine": machine, "entries": []}
    known: dict[str, Any] = json.loads(path.read_bytes())
    return known


def require_entries(results: dict[str, Any], path: Path) -> None:
    """Refuse to tell a file that holds nothing."""
    if not results["entries"]:
        msg = f"{path} holds no figures: give a checkpoint"
        raise click.UsageError(msg)


def entry_for(
    results: dict[str, Any],
    checkpoint: Checkpoint,
    shape: str,
    setting: Setting,
    kept: str = "rivals",
) -> dict[str, Any]:
    """The place of a shape at a setting, to which what is `kept` is added; one machine's alone."""
    if results["machine"] != describe().as_dict():
        msg = "the file of figures is of another machine: move it, or choose --results"
        raise click.ClickException(msg)
    key = {"shape": shape, **asdict(setting)}
    for entry in results["entries"]:
        if all(entry[name] == value for name, value in key.items()):
            found: dict[str, Any] = entry
            return found
    new = {**key, "parameters": checkpoint.parameters, kept: {}}
    results["entries"].append(new)
    results["entries"].sort(
        key=lambda e: (e["batch"], e["beams"], e["tokens"], e["threads"], e["parameters"])
    )
    return new


def figures(
    answers: list[dict[str, Any]],
    made: Mapping[str, Any],
    rival: Rival,
    setting: Setting,
    window_s: int = WINDOW_S,
) -> dict[str, Any]:
    """What the fresh processes of one rival answered, as one row."""
    seconds = [value for answer in answers for value in answer["seconds"]]
    median = statistics.median(seconds)
    told = {
        "options": rival.options,
        **({"variables": rival.variables} if rival.variables else {}),
        "versions": answers[0]["versions"],
        "processes": len(answers),
        "seconds": spread(seconds),
        "tokens_per_s": round(setting.tokens * setting.batch / median, 2),
        "rtf": round(median / (window_s * setting.batch), 5),
        "tokens": answers[0]["tokens"],
        "text": answers[0]["texts"][0][:80],
        "size_bytes": made["size_bytes"],
        "foreign_share": max(answer["foreign_share"] for answer in answers),
        "load_average": max(answer["load_average"] for answer in answers),
    }
    first = [each["ready_s"] + [*each["warmup_s"], *each["seconds"]][0] for each in answers]
    told["first_text_s"] = round(statistics.median(first), 3)
    for name in ("load_s", "ready_s", "peak_rss_bytes"):
        told[name] = round(statistics.median(answer[name] for answer in answers), 3)
    told["warmup_s"] = [round(value, 3) for value in answers[-1]["warmup_s"]]
    if "seconds" in made:
        told["conversion"] = {"seconds": made["seconds"], "peak_bytes": made["peak_bytes"]}
    return told


def spread(seconds: list[float]) -> dict[str, Any]:
    """Median, quartiles, ends, and the values themselves."""
    low, q1, median, q3, high = np.quantile(seconds, [0, 0.25, 0.5, 0.75, 1]).tolist()
    told = {"median": median, "min": low, "q1": q1, "q3": q3, "max": high}
    rounded: dict[str, Any] = {name: round(value, 4) for name, value in told.items()}
    return {**rounded, "all": [round(value, 4) for value in seconds]}


def ratios(entry: dict[str, Any]) -> Iterator[Ratio]:
    """Every target at one setting."""
    rows = entry["rivals"]
    large = entry["parameters"] >= LARGE
    for target in TARGETS:
        limit = target.large if large else target.small
        measured = [name for name in target.theirs if "seconds" in rows.get(name, {})]
        ours = rows.get(target.ours, {})
        if "seconds" not in ours or not measured:
            failed = all("failed" in rows.get(name, {}) for name in target.theirs)
            alone = limit is None and "seconds" in ours and failed
            yield Ratio(target, target.theirs[0], None, limit, True if alone else None, True)
            continue
        best = min(measured, key=lambda name: rows[name]["seconds"]["median"])
        value = ours["seconds"]["median"] / rows[best]["seconds"]["median"]
        one_run = ours["run"] == rows[best]["run"]
        met = limit is None or value <= limit
        yield Ratio(target, best, value, limit, met, one_run)


def tables(results: dict[str, Any]) -> str:
    """Markdown: the rivals at every setting, the targets, and where it was measured."""
    parts = []
    for entry in results["entries"]:
        parts.append(f"**{title(entry)}**\n\n{rivals_table(entry)}")
    parts.append(f"**Targets**\n\n{ratios_table(results)}")
    return "\n\n".join([*parts, place(results)])


def each_shape(
    results: dict[str, Any],
    title: Callable[[dict[str, Any]], str],
    table: Callable[[dict[str, Any]], str],
) -> str:
    """Markdown: the title and the table of each shape, and where it was measured."""
    parts = [f"**{title(entry)}**\n\n{table(entry)}" for entry in results["entries"]]
    return "\n\n".join([*parts, place(results)])


def place(results: dict[str, Any]) -> str:
    """Where it was measured, in words."""
    machine = results["machine"]
    return (
        f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['features'])}), "
        f"{machine['memory_bytes'] / 1e9:.1f} GB of memory."
    )


def title(entry: dict[str, Any]) -> str:
    """One setting in words."""
    batch, beams = entry["batch"], entry["beams"]
    windows = "one window" if batch == 1 else f"{batch} windows together"
    search = "greedy" if beams == 1 else f"{beams} beams"
    return (
        f"{entry['shape']}, {entry['parameters'] / 1e6:.0f} M: {windows}, {search}, "
        f"{entry['tokens']} tokens each, {entry['threads']} threads"
    )


def rivals_table(entry: dict[str, Any]) -> str:
    """A row for each rival, in the order in which they are listed."""
    columns = ["", "median", "min to max", "tokens/s", "RTF", "ready in", "memory", "size"]
    lines = [columns, ["---"] + ["---:"] * 8]
    lines[0].append("converted in")
    known = [name for name in RIVALS if name in entry["rivals"]]
    for name in known:
        row = entry["rivals"][name]
        lines.append([row["label"], *cells(row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratios_table(results: dict[str, Any]) -> str:
    """A row for each target, a column for each setting."""
    entries = results["entries"]
    heads = [f"{entry['shape']}{_variant(entry)}" for entry in entries]
    lines = [["ratio of medians", *heads], ["---"] + ["---:"] * len(heads)]
    columns = [list(ratios(entry)) for entry in entries]
    for index, target in enumerate(TARGETS):
        label = "best OpenVINO" if target.theirs == OPENVINO else RIVALS[target.theirs[0]].label
        values = [_ratio(column[index]) for column in columns]
        lines.append([f"{target.ours} / {label}", *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _variant(entry: dict[str, Any]) -> str:
    batch, beams = entry["batch"], entry["beams"]
    return (f", {batch} windows" if batch > 1 else "") + (f", {beams} beams" if beams > 1 else "")


def _ratio(ratio: Ratio) -> str:
    if ratio.value is None:
        return "theirs fails" if ratio.met else ""
    runs = "" if ratio.one_run else " (two runs)"
    if ratio.limit is None:
        return f"{ratio.value:.2f}{runs}"
    verdict = "met" if ratio.met else "**not met**"
    return f"{ratio.value:.2f} of {ratio.limit:.2f} {verdict}{runs}"


def cells(row: dict[str, Any]) -> Iterator[str]:
    """The figures of one row, in the order of the columns."""
    if "failed" in row:
        yield from (f"cannot: {row['failed']}", "", "", "", "", "", "", "")
        return
    seconds = row["seconds"]
    yield f"{seconds['median']:.3f} s"
    yield f"{seconds['min']:.3f} to {seconds['max']:.3f}"
    yield f"{row['tokens_per_s']:.0f}"
    yield f"{row['rtf']:.4f}"
    yield f"{row['ready_s']:.1f} s"
    yield f"{row['peak_rss_bytes'] / 1e9:.2f} GB"
    yield f"{row['size_bytes'] / 1e6:.0f} MB"
    cost = row.get("conversion")
    yield f"{cost['seconds']:.0f} s, {cost['peak_bytes'] / 1e9:.2f} GB" if cost else ""
