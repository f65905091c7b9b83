"""Format results for a terminal: plans, verdicts and facts as tables and lines.

Functions from results to text, separate from the commands that compute the results.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from exporter.cli.output.table import Column, Table
from exporter.system.accelerators import GpuNeeds
from exporter.system.hardware import features_in_words
from exporter.system.progress import shown_bytes

_MINUTES_FROM_S = 100
_LEAST_REMARK = 16  # columns


def of_plan(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a plan as a table: a row for each artifact (or kind) with its costs and if it fits."""
    on_card = _any_on_card(rows)
    figures = {"memory to build": "peak_rss_bytes", "to load": "reload_rss_bytes"}
    figures |= {"on the GPU": "device_memory_bytes"} if on_card else {}
    figures |= {"disk": "disk_bytes"}
    head = "artifact" if "artifact" in rows[0] else "kind"
    drawn = table(head, ("size", *figures, "time"), "here")
    for row in rows:
        drawn.add(row.get("artifact", row["kind"]), *_needs(row, figures.values()))
    return drawn


def _needs(row: Mapping[str, Any], figures: Collection[str]) -> Iterator[str]:
    """Yield a row's cells; an artifact that is kept costs nothing."""
    yield shown_bytes(row["size_bytes"]) if "size_bytes" in row else "-"
    if "size_bytes" not in row or row.get("action") == "keep":
        yield from "-" * (len(figures) + 1)
    else:
        for name in figures:
            yield shown_bytes(row[name]) if row[name] else "-"
        yield duration(row["seconds"] + row["reload_seconds"])
    done = {"keep": "already built, kept", "replace": "yes, replaces what is there"}
    yield f"no: {row['why_not']}" if row["why_not"] else done.get(row.get("action", ""), "yes")


def _any_on_card(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row.get("device_memory_bytes") for row in rows)


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


def room(here: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the lines about this machine's memory and disk, and the source of a plan's estimates.

    No build for a GPU has been measured yet.
    """
    memory, disk = (
        shown_bytes(here[f"{name}_bytes"]) for name in ("memory_available", "disk_free")
    )
    return (
        f"Here: {memory} of memory available, {disk} of disk free at {here['place']}.",
        f"Memory and time are estimates, by measurements on {here['figures_measured_on']}"
        f"{'; for GPUs they are guesses' if _any_on_card(rows) else ''}.",
    )


def artifact_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about an artifact, from the facts that `inspect --json` prints."""
    manifest = facts["manifest"]
    files, machine, build = manifest["files"], manifest["machine"], manifest["build"]
    yield f"artifact: {facts['artifact']}"
    yield f"kind: {manifest['kind']}, of the family {manifest['family']}"
    yield f"report: {_report(facts['report'])}"
    if facts["report"]:
        yield f"page: {facts['report']['page']}"
    yield f"size: {shown_bytes(facts['size_bytes'])} in {len(files)} files"
    yield f"built from: {_origin(manifest['checkpoint'])}"
    recipe = manifest["recipe"]
    yield f"recipe: {recipe['name']} ({recipe['source']}, sha256 {recipe['sha256'][:12]})"
    yield f"options: {_pairs(manifest['options'])}"
    for group in manifest.get("quantization", ()):
        parameters = (f"{n} {option_value(v)}" for n, v in group["parameters"].items())
        scheme = ", ".join([group["scheme"], *parameters])
        count = len(group["modules"])
        yield f"quantization: {scheme}: {count} module{'' if count == 1 else 's'}"
    for graph, choice in manifest.get("choices", {}).items():
        yield f"chosen for {graph}: {choice['chosen']}"
    yield f"needs: {_needed(manifest['needs'])}"
    cost = f"{duration(build['seconds'])} with {shown_bytes(build['peak_rss_bytes'])} of memory"
    where = ", ".join(
        f"{machine[key]}{unit}" for key, unit in _MACHINE_FACTS.items() if key in machine
    )
    yield f"built in: {cost}, on {where or 'a machine that it does not name'}"
    if "built_on" in manifest:
        card = manifest["built_on"]
        yield (
            f"built on: {card['gpu']} ({card['multiprocessors']} multiprocessors), by torch "
            f"{card['torch']} and Triton {card['triton']}"
        )
    yield f"built with: {', '.join(f'{n} {v}' for n, v in manifest['versions'].items()) or '-'}"
    yield f"signatures: {', '.join(facts['signatures']) or 'none'}"
    yield f"digest: {facts['digest']}"
    yield "files:"
    for file in files:
        yield f"  {file['path']} {shown_bytes(file['size_bytes'])}"


_MACHINE_FACTS = {"cpu": "", "cores": " cores", "isa": ""}


def checkpoint_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about a checkpoint, from the facts that `inspect --json` prints."""
    yield f"checkpoint: {facts['checkpoint']}"
    yield f"family: {facts['family']}"
    yield f"parameters: {counted(facts['parameters'])}"
    yield f"size: {shown_bytes(facts['size_bytes'])}, in {', '.join(facts['dtypes'])}"


def _report(judged: Mapping[str, Any] | None) -> str:
    if judged is None:
        return "none: not validated"
    if not judged["judged_this_artifact"]:
        return "about another build: validate again"
    rates = f"WER {judged['wer']:.2%}, the original's {judged['wer_original']:.2%}"
    clips = f"{judged['clips']:,} clips"
    return f"{judged['verdict']}: {rates}, on {clips}. {judged['sentence']}"


def _origin(origin: Mapping[str, Any]) -> str:
    revision = f" at {origin['revision'][:12]}" if origin["revision"] else ""
    size = f"{counted(origin['parameters'])} parameters, {shown_bytes(origin['size_bytes'])}"
    return f"{origin['source']}{revision} ({size}, sha256 {origin['sha256'][:12]})"


def _needed(needs: Mapping[str, Any]) -> str:
    features = features_in_words(needs["cpu_features"])
    parts = [f"a CPU with {features}" if features else "", *needs["packages"]]
    device = GpuNeeds.of(**needs["gpu"]).in_full() if "gpu" in needs else needs.get("device", "")
    return ", ".join(filter(None, [*parts, device])) or "any CPU"


def _pairs(options: Mapping[str, Any]) -> str:
    known = {key: value for key, value in options.items() if value is not None}
    return ", ".join(f"{key} {option_value(value)}" for key, value in known.items()) or "none"


def counted(number: int) -> str:
    """Return a large number as text with three digits, like 4.09 million."""
    for size, word in ((10**9, "billion"), (10**6, "million"), (1000, "thousand")):
        if number >= size:
            return f"{digits(number / size)} {word}"
    return str(number)


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
