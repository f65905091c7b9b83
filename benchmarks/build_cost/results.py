"""The figures of benchmarks/build_cost/run.py: kept in one JSON file, told as a Markdown table.

A file belongs to one machine and one set of versions; figures of another are not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families import FAMILIES, family_name
from exporter.formats.tensor_io import FLOATS
from exporter.system.files import write_atomic
from exporter.system.hardware import describe, installed_versions, versions_of

OPTIMUM = "optimum"
_START, _END = "<!-- build_shapes -->", "<!-- /build_shapes -->"
_COLUMNS = [
    *("shape", "built as", "build", "memory", "whole command", "its memory", "size"),
    *("of the ideal", "estimated", "token"),
]


def open_results(path: Path) -> dict[str, Any]:
    """Read the file to go on with it, or begin a new one."""
    versions = installed_versions() | versions_of(("optimum", "optimum-onnx"))
    new: dict[str, Any] = {"machine": describe().as_dict(), "versions": versions, "shapes": {}}
    if not path.exists():
        return new
    known: dict[str, Any] = json.loads(path.read_bytes())
    if any(known[part] != new[part] for part in ("machine", "versions")):
        msg = f"{path} is of another machine or other versions: move it, or choose --output"
        raise click.ClickException(msg)
    return known


def save_results(path: Path, results: dict[str, Any]) -> None:
    """Write the file so that an interruption leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(results, indent=1).encode() + b"\n")


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What does not depend on how it is built."""
    return {
        "parameters": checkpoint.parameters,
        "checkpoint_bytes": checkpoint.size_bytes,
        "ideal_bytes": ideal_bytes(checkpoint),
        "ways": {},
    }


def ideal_bytes(checkpoint: Checkpoint) -> int:
    """The bytes of all int8 and float tensors, each stored once.

    Every linear module's weight in int8 with a float32 scale per output channel; all else (biases,
    norms, convolutions, embeddings) as the checkpoint stores it. The head is a linear module, and
    the embedding that it is tied to is one tensor of the rest.
    """
    model = FAMILIES[family_name(checkpoint.config)].skeleton(checkpoint.config)
    linears = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    codes = sum(module.weight.numel() for module in linears.values())
    scales = sum(module.out_features for module in linears.values()) * torch.float32.itemsize
    rest = sum(
        info.elements * FLOATS[info.dtype].itemsize
        for name, info in checkpoint.tensors.items()
        if name not in linears
    )
    return codes + scales + rest


def by_size(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The shapes with what is told of them, small ones first."""
    return sorted(results["shapes"].items(), key=lambda row: int(row[1]["parameters"]))


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each shape and way, and where it was measured."""
    lines = [" | ".join(_COLUMNS), " | ".join(["---"] * 2 + ["---:"] * (len(_COLUMNS) - 2))]
    for shape, told in by_size(results):
        size = f"{shape}, {told['parameters'] / 1e6:.0f} M"
        for way, figures in told["ways"].items():
            lines.append(" | ".join([size, way, *_cells(figures, told["ideal_bytes"])]))
            size = ""
    machine, versions = results["machine"], results["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 1e9:.1f} GB of "
        f"memory; {named}."
    )
    return "\n".join(f"| {line} |" for line in lines) + f"\n\n{where}"


def fill_in(page: Path, text: str) -> None:
    """Replace what stands between the page's two markers."""
    told = page.read_text(encoding="utf-8")
    before, start, rest = told.partition(_START)
    _, end, after = rest.partition(_END)
    if not (start and end):
        msg = f"{page} has no place for the table: {_START} and {_END}"
        raise click.ClickException(msg)
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def ending(figures: dict[str, Any]) -> str | None:
    """In words, why there is no artifact; None where there is one."""
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    if figures["killed_for"]:
        peak = _gigabytes(figures["command_peak_bytes"])
        return f"killed at {peak} after {_seconds(figures['command_s'])}"
    return None


def _cells(figures: dict[str, Any], ideal: int) -> Iterator[str]:
    """The figures of one row, in the order of the columns."""
    if ended := ending(figures):
        yield from ("", "", ended, "", "", "", "", "")
        return
    built = "build_s" in figures
    yield _seconds(figures["build_s"]) if built else ""
    yield _gigabytes(figures["build_peak_bytes"]) if built else ""
    yield _seconds(figures["command_s"])
    yield _gigabytes(figures["command_peak_bytes"])
    yield f"{figures['size_bytes'] / 1e6:.1f} MB"
    yield f"{figures['size_bytes'] / ideal:.3f}"
    yield _estimated(figures["predicted"]) if built else ""
    yield f"{figures['token_s'] * 1e3:.1f} ms"


def _estimated(predicted: dict[str, Any]) -> str:
    return f"{_seconds(predicted['seconds'])}, {_gigabytes(predicted['peak_rss_bytes'])}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value < 10e9 else f"{value / 1e9:.1f} GB"
