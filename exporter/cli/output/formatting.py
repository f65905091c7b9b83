"""How results look on a terminal: plans, verdicts and facts as tables and lines.

Plain functions from results to text, apart from the commands that make the results; drawing is
imported where it is done, since most calls draw nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from exporter.artifact.report import Report
    from exporter.artifact.store import Manifest
    from exporter.bench.run import Load
    from exporter.system.build_cache import Entry

# Smaller files of an artifact are told together.
_SMALL = 0.01
_MINUTES_FROM_S = 100
_FIGURES = (
    *("size (of float32)", "original WER", "WER", "points, 95 %"),
    *("latency", "RTF", "load", "memory"),
)
_CHOSEN = "chosen by timing while it is built; sizes are of the largest candidate"


def of_reports(folders: Sequence[Path], reports: Sequence[Report]) -> Table:
    """A row per artifact that was judged."""
    table = _table("artifact", _FIGURES, "verdict")
    for folder, report in zip(folders, reports, strict=True):
        table.add_row(f"{report.artifact.recipe}/{folder.name}", *_figures(report))
    return table


def summary(folders: Sequence[Path], reports: Sequence[Report]) -> str:
    """The same in Markdown, and what each verdict rests on."""
    rows = [("artifact", *_FIGURES, "verdict"), ("---", *["---:"] * len(_FIGURES), "---")]
    checks = []
    for folder, report in zip(folders, reports, strict=True):
        rows.append((f"{report.artifact.recipe}/{folder.name}", *_figures(report)))
        checks += [f"- {folder.name}: {check.name}: {check.sentence}" for check in report.checks]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([table, "", *checks, ""])


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
    lines = [f"{row['artifact']}: {options}", f"  {', '.join(told)}"]
    if open_ := [key for key, value in row["options"].items() if _is_open(value)]:
        lines.append(f"  {', '.join(open_)}: {_CHOSEN}")
    return "\n".join(lines)


def _is_open(value: object) -> bool:
    """Whether an option leaves something to the build."""
    return "auto" in value.values() if isinstance(value, dict) else value == "auto"


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


def choices(manifest: Manifest) -> Iterator[str]:
    """What the build chose, a line for each graph: every candidate with its time."""
    for graph, choice in manifest.choices.items():
        if not choice.seconds:
            yield f"{graph}: {choice.chosen}, the only candidate"
            continue
        chosen = moment(choice.seconds[choice.chosen])
        ranked = sorted(choice.seconds.items(), key=lambda pair: pair[1])
        others = ", ".join(f"{c} {moment(s)}" for c, s in ranked if c != choice.chosen)
        cut = f"{' and '.join(map(str, choice.layers))} of {choice.depth} layers"
        whole = choice.layers == (choice.depth,)
        how = "" if whole else f"; reckoned from {cut}"
        yield f"{graph}: {choice.chosen} ({chosen} a call; {others}{how})"


def kept(entry: Entry) -> str:
    """One kept file's line."""
    made = datetime.fromtimestamp(entry.made).astimezone()
    return f"{made:%Y-%m-%d %H:%M}  {shown_bytes(entry.size_bytes):>8}  {entry.what}"


def of_bench(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per artifact and number of threads; "-" where something cannot be told."""
    latency = ("p50", "p90", "p99", "min", "max")
    rates = ("tokens/s", "RTF (x real time)", "encoder", "token", "outside")
    columns = ("threads", *latency, *rates, "load", "memory")
    table = _table("artifact", columns, "size")
    for row in rows:
        cells = ["-"] * (len(columns) - 1) if row["error"] else _timed(row)
        table.add_row(row["name"], str(row["threads"]), *cells, shown_bytes(row["size_bytes"]))
    return table


def _timed(row: Mapping[str, Any]) -> Iterator[str]:
    """One measured row's cells, in the order of the columns, from the first latency on."""
    yield from map(moment, row["latency_s"].values())
    yield f"{row['tokens_per_s']:.0f}"
    yield f"{row['rtf']:.4f} ({row['times_real_time']:.3g})"
    for name in ("encoder_window_s", "decoder_token_s"):
        yield "-" if row[name] is None else moment(row[name])
    yield "-" if row["outside_share"] is None else f"{row['outside_share']:.0%}"
    yield moment(row["load_s"])
    yield shown_bytes(row["peak_rss_bytes"])


def bench_load(load: Load, rows: Sequence[Mapping[str, Any]]) -> str:
    """What was transcribed how often, under a table of timings."""
    told = next(row for row in rows if not row["error"])
    beams, batch = (
        " or ".join(map(str, sorted({row["decoding"][name] for row in rows})))
        for name in ("num_beams", "batch_size")
    )
    if load.audio:
        what = ", ".join(path.name for path in load.audio)
    else:
        length = told["audio_s"] / told["decoding"]["batch_size"]
        what = f"a window of {length:.0f} s of noise and {load.tokens} tokens"
    rounds = len(told["rounds"])
    how = f"beams {beams}, batch {batch}, {load.runs} runs, fresh processes in {rounds} rounds"
    return f"Samples in, text out: {what}; {how}."


def of_machine(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a machine is, and what follows from it for each kind of artifact, line by line."""
    has = [name for name, there in facts["features"].items() if there]
    lacks = [name for name, there in facts["features"].items() if not there]
    memory, free = (shown_bytes(facts[f"memory_{which}bytes"]) for which in ("", "available_"))
    yield f"cpu: {facts['cpu']}, {_cores(facts['cores'])}, {facts['isa']}"
    yield f"has: {' '.join(has) or 'none of the below'}"
    yield f"lacks: {' '.join(lacks) or 'nothing'}"
    yield f"caches: {', '.join(map(_cache, facts['caches'])) or 'not told by this system'}"
    yield f"memory: {memory}, {free} of it available"
    for kind, target in facts["targets"].items():
        options = (target["defaults"] or {}).items()
        defaults = ", ".join(f"{key}={_value(value)}" for key, value in options)
        yield f"{kind}: {defaults}{'; ' if defaults else ''}{target['says']}"


def _cache(cache: Mapping[str, Any]) -> str:
    kib = cache["size_bytes"] // 1024
    size = f"{kib // 1024} MiB" if kib % 1024 == 0 else f"{kib} KiB"
    kind = "" if cache["kind"] == "unified" else f" {cache['kind']}"
    return f"L{cache['level']}{kind} {size} for {_cores(cache['cores'])}"


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"


def of_rates(measured: Mapping[str, Any]) -> Iterator[str]:
    """How fast memory is read and matrices are multiplied, line by line."""
    memory = measured["memory"]
    yield (
        f"memory is read at {memory['read_bytes_per_s'] / 1e9:.1f} GB/s "
        f"({shown_bytes(memory['buffer_bytes'])} in a row, threads {measured['threads']})"
    )
    for each in measured["products"]:
        rates = ", ".join(
            f"{dtype} {each[dtype] / 1e9:.0f}" for dtype in ("int8", "bfloat16", "float32")
        )
        shape = f"[{each['rows']}, {each['width']}] by [{each['width']}, {each['width']}]"
        yield f"products {shape}, billion operations a second: {rates}"


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


def moment(seconds: float) -> str:
    """A short time, in three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


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
