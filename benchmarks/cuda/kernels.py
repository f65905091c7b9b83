"""Tell what a decoder's step starts on a card: the kernels of each part, without the card.

A step's time at one row is that of reading its weights and of starting its kernels, so their number
is told for each layer and for the whole. Parts are compiled as `exporter build` compiles them, for
a card that is not here (see without_card.py), so nothing is timed, and attention of many rows is
not the one that torch chooses on a card.

    python -m benchmarks.random_checkpoints large-v3 checkpoints/large-v3
    python -m benchmarks.cuda.kernels checkpoints/large-v3 --card H100 --rows 1 --rows 8
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from torch.export.passes import move_to_device_pass

from benchmarks.cuda.without_card import CARDS, launches, stand_in
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.families import FAMILIES, family_name
from exporter.families.graph import Graph, parameter_names
from exporter.families.layered import LayeredGraph
from exporter.quantization.plan import QuantizationPlan, plan_of, shared_tables
from exporter.quantization.resolve import default_quantization
from exporter.targets.aoti.cuda import builder, compiler


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--card", type=click.Choice(list(CARDS)), default="H100", show_default=True)
@click.option("--rows", type=int, multiple=True, default=(1, 8), help="Of a step.")
@click.option("--int8", is_flag=True, help="With int8 weights, else float16.")
@click.option("--graph", "asked", multiple=True, help="Like step_1 or encoder; by default all.")
def main(
    checkpoint: Path, card: str, rows: Sequence[int], int8: bool, asked: Sequence[str]
) -> None:
    """Print a Markdown table of the kernels of CHECKPOINT's graphs."""
    opened = open_checkpoint(str(checkpoint))
    plan = _all_int8(opened) if int8 else QuantizationPlan()
    device = torch.device("cuda")
    recipe = builder.Recipe(
        family_name(opened.config), opened, plan, torch.float16, tuple(rows), device
    )
    whole = builder.cut(recipe)
    click.echo("| graph | part | times | kernels | which |\n| --- | --- | ---: | ---: | --- |")
    with TemporaryDirectory() as folder, stand_in(CARDS[card], Path(folder)):
        for graph in whole.graphs.values():
            if not asked or graph.name in asked:
                click.echo(_lines(graph, whole))


def _all_int8(opened: Checkpoint) -> QuantizationPlan:
    family = FAMILIES[family_name(opened.config)]
    model = family.skeleton(opened.config)
    shared = shared_tables(family.TIED, opened.tensors)
    return plan_of(default_quantization(model, family.HEAD, shared), model)


def _lines(graph: Graph | LayeredGraph, whole: builder.Cut) -> str:
    """Return the rows of a graph's parts, and their sum."""
    lines, total = [], 0
    parts = graph.parts if isinstance(graph, LayeredGraph) else (graph,)
    for part in parts:
        times = whole.parts[part.name][1]
        started = compiled(part, whole)
        total += times * len(started)
        named = ", ".join(_short(each) for each in started)
        lines.append(f"| {graph.name} | {part.name} | {times} | {len(started)} | {named} |")
    lines.append(f"| {graph.name} | all | | {total} | |")
    return "\n".join(lines)


def compiled(part: Graph, whole: builder.Cut) -> list[str]:
    """Compile one part for the card; return what it starts, in order."""
    names = parameter_names(part, whole.model)
    with torch.no_grad(), TemporaryDirectory() as folder:
        here = torch.device("cpu")
        program, _ = compiler.traced(part, names, here, kernels=True)
        program._example_inputs = None  # real ones cannot be moved
        program = move_to_device_pass(program, "cuda:0")
        values = (node.meta["val"] for node in program.graph.find_nodes(op="placeholder"))
        program._example_inputs = (tuple(values), {})
        settings = {**compiler.cuda_settings(builder._rows(part)), "max_autotune": False}
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=f"{folder}/part.pt2",
            inductor_configs=compiler.known_settings({**settings, **_ONE_PROCESS}),
        )
        return launches(Path(package))


_ONE_PROCESS = {"compile_threads": 1, "triton.autotune_at_compile_time": True}


def _short(name: str) -> str:
    """Return a kernel's name without the operators that it fuses."""
    return name if "fused" not in name else "_".join(name.split("_")[:2])


if __name__ == "__main__":
    main()
