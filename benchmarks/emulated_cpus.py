"""Measure whole transcriptions on lesser machines, emulated by the runtimes' own switches.

For each checkpoint and level every rival that has a switch is measured as benchmarks/peers/run.py
measures: fresh processes in interleaved rounds. Artifacts of aoti are built for the level. It is no
lesser machine all the same: clock, caches, memory and the widths of its units are this one's. Speed
alone is told, since what asks the CPU itself is not limited: without VNNI torch-int8 would keep its
activations to 7 bits.

    python -m benchmarks.emulated_cpus checkpoints/tiny checkpoints/small --work FOLDER
    python -m benchmarks.emulated_cpus
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.options import Asked, measuring
from benchmarks.peers.results import (
    entry_for,
    open_results,
    place,
    require_entries,
    save_results,
    title,
)
from benchmarks.peers.run import measure
from benchmarks.peers.systems import RIVALS, Rival
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.system.hardware import describe

RESULTS = Path(__file__).resolve().parent / "results" / "lesser_machines.json"
NO_SWITCH = "no switch"


@dataclass(frozen=True)
class Level:
    """What a CPU has: told in words, by the environment, and by the conversion of aoti."""

    label: str
    isa: str
    variables: dict[str, str]
    conversion: str


def variables(torch: str, onednn: str, others: str) -> dict[str, str]:
    """The switches of all runtimes; each reads its own.

    torch: ATEN_CPU_CAPABILITY for its kernels, FBGEMM's for int8 products (src/Utils.cc there),
    oneDNN's and MKL's. CTranslate2: its own and, for products, oneDNN's or MKL's
    (docs/environment_variables.md there). OpenVINO: its own and oneDNN's together
    (src/plugins/intel_cpu/docs there; releases read it since 2026.4).
    """
    return {
        "ATEN_CPU_CAPABILITY": torch,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "OV_CPU_MAX_ISA": onednn,
        "CT2_FORCE_CPU_ISA": others,
        "FBGEMM_ENABLE_INSTRUCTIONS": others,
        "MKL_ENABLE_INSTRUCTIONS": others,
    }


LEVELS = {
    "native": Level("all it has", "", {}, "aoti"),
    "avx512": Level(
        "AVX-512 without VNNI and bfloat16",
        *("x86-64-v4", variables("avx512", "AVX512_CORE", "AVX512"), "aoti-avx512"),
    ),
    "avx2": Level("AVX2", "x86-64-v3", variables("avx2", "AVX2", "AVX2"), "aoti-avx2"),
}
# Without AVX-512's bfloat16, OpenVINO's own default is float32.
MEASURED = ("aoti", "torch-int8", "onnx-int8", "faster-whisper", "openvino-bf16", "openvino-f32")
# onnxruntime's MLAS asks the CPU alone (onnxruntime/core/mlas/lib/platform.cpp).
SWITCHLESS = ("onnx-int8",)
BFLOAT16 = ("openvino-bf16",)


@click.command()
@measuring
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option("--rounds", default=5, show_default=True, help="Fresh processes of each rival.")
@click.option("--runs", default=3, show_default=True, help="Timed transcriptions in each.")
def main(asked: Asked, results: Path, rounds: int, runs: int) -> None:
    """Measure CHECKPOINTS at every level, then tell all that the file of figures holds."""
    told = open_results(results)
    for checkpoint in asked.checkpoints:
        bench = asked.bench(runs)
        opened = open_checkpoint(str(checkpoint))
        entry = entry_for(told, opened, checkpoint.name, bench.setting)
        entry["rivals"] |= measure(bench, checkpoint, variants(), rounds, asked.again)
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))


def variants() -> dict[str, Rival]:
    """Every rival at every level that it can be limited to and this machine has."""
    found = {}
    for level_name, level in LEVELS.items():
        for name in MEASURED:
            if level.isa > describe().isa or (level.isa and name in SWITCHLESS + BFLOAT16):
                continue
            rival = replace(RIVALS[name], variables=level.variables)
            if name == "aoti":
                rival = replace(rival, conversion=level.conversion)
            found[key(name, level_name)] = rival
    return found


def key(name: str, level: str) -> str:
    """Under which a rival's figures at a level are kept."""
    return f"{name} {level}"


def tables(results: dict[str, Any]) -> str:
    """Markdown: a table for each shape, and where it was measured."""
    parts = []
    for entry in results["entries"]:
        parts.append(f"**{title(entry)}**\n\n{table(entry)}")
    return "\n\n".join([*parts, place(results)])


def table(entry: dict[str, Any]) -> str:
    """A row for each rival, a column for each level; last, aoti beside the fastest of the others.

    A row's levels are measured in one run, whose rounds go through all of them.
    """
    labels = [level.label for level in LEVELS.values()]
    lines = [["median seconds", *labels], ["---"] + ["---:"] * len(labels)]
    for name in MEASURED:
        lines.append([RIVALS[name].label, *(cell(entry, name, level) for level in LEVELS)])
    lines.append(["aoti / fastest of the others' runtimes", *ratios(entry)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(entry: dict[str, Any], name: str, level: str) -> str:
    """One rival at one level."""
    row = entry["rivals"].get(key(name, level))
    if row is None:
        return NO_SWITCH if name in SWITCHLESS else ""
    if "failed" in row:
        return f"cannot: {row['failed']}"
    seconds = row["seconds"]
    return f"{seconds['median']:.3f} ({seconds['min']:.3f} to {seconds['max']:.3f})"


def ratios(entry: dict[str, Any]) -> Iterator[str]:
    """At each level, aoti's median over the least of those that are not ours."""
    for level in LEVELS:
        medians = {
            name: row["seconds"]["median"]
            for name in MEASURED
            if "seconds" in (row := entry["rivals"].get(key(name, level), {}))
        }
        ours = ("aoti", "torch-int8", "onnx-int8")
        others = [medians[name] for name in medians if name not in ours]
        known = "aoti" in medians and others
        yield f"{medians['aoti'] / min(others):.2f}" if known else ""


if __name__ == "__main__":
    main()
