"""The machine command: this machine's features, and its measured speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command
from exporter.cli.output.formatting import option_value
from exporter.system.hardware import MAX_THREADS
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal


@command("", "--measure --threads 2")
@click.option(
    "--measure",
    is_flag=True,
    help="Also measure memory and matrix products, of a card too (seconds).",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    metavar="N",
    help="Threads to measure with; default: all cores.",
)
def machine(terminal: Terminal, measure: bool, threads: int | None, as_json: bool) -> None:
    """Show what this machine offers to each kind of artifact."""
    if threads and not measure:
        msg = "--threads goes with --measure"
        raise click.UsageError(msg)
    from exporter.targets import capabilities

    facts = capabilities.machine_capabilities()
    measured = None
    if measure:
        from exporter.bench import microbench

        with terminal.progress() as progress:
            measured = microbench.measure_fresh(threads, progress)
    if as_json:
        terminal.say_json(**facts, measured=measured)
        return
    terminal.say_wrapped(*machine_lines(facts), *(of_rates(measured) if measured else ()))


def machine_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about a machine and what it offers to each kind of artifact."""
    has = [name for name, there in facts["features"].items() if there]
    lacks = [name for name, there in facts["features"].items() if not there]
    memory, free = (shown_bytes(facts[f"memory_{which}bytes"]) for which in ("", "available_"))
    yield f"cpu: {facts['cpu']}, {_cores(facts['cores'])}, {facts['isa']}"
    yield f"has: {' '.join(has) or 'none of these'}"
    yield f"lacks: {' '.join(lacks) or 'none'}"
    yield f"caches: {', '.join(map(_cache, facts['caches'])) or 'unknown'}"
    yield f"memory: {memory}, {free} available"
    if facts["cuda"] is not None:
        yield from _cuda_lines(facts["cuda"])
    for kind, target in facts["targets"].items():
        options = (target["defaults"] or {}).items()
        defaults = ", ".join(f"{key}={option_value(value)}" for key, value in options)
        yield f"{kind}: {defaults}{'; ' if defaults else ''}{target['says']}"


def _cuda_lines(cuda: Mapping[str, Any]) -> Iterator[str]:
    if "error" in cuda:
        yield f"driver: {cuda['error']}"
        return
    yield f"driver: for CUDA {'.'.join(map(str, cuda['version']))}"
    for card in cuda["cards"]:
        capability = ".".join(map(str, card["capability"]))
        memory = shown_bytes(card["memory_bytes"])
        yield f"card: {card['name']}, {memory}, compute capability {capability}"


def _cache(cache: Mapping[str, Any]) -> str:
    kib = cache["size_bytes"] // 1024
    size = f"{kib // 1024} MiB" if kib % 1024 == 0 else f"{kib} KiB"
    kind = "" if cache["kind"] == "unified" else f" {cache['kind']}"
    return f"L{cache['level']}{kind} {size} for {_cores(cache['cores'])}"


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"


def of_rates(measured: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about measured bandwidths and matrix products, those of a card last."""
    memory = measured["memory"]
    yield (
        f"memory read: {memory['read_bytes_per_s'] / 1e9:.1f} GB/s "
        f"({shown_bytes(memory['buffer_bytes'])} in sequence, threads {measured['threads']})"
    )
    for each in measured["products"]:
        rates = ", ".join(
            f"{dtype} {each[dtype] / 1e9:.0f}" for dtype in ("int8", "bfloat16", "float32")
        )
        shape = f"[{each['rows']}, {each['width']}] by [{each['width']}, {each['width']}]"
        yield f"matrix product {shape}, billion operations per second: {rates}"
    for card in measured["cards"]:
        yield f"{card['name']}, copies: {card['copy_bytes_per_s'] / 1e9:.0f} GB/s, read and written"
        rate = card["fp16_per_s"]
        told = f"not measured: {card['missing']}" if rate is None else f"{rate / 1e12:.0f} TFLOP/s"
        yield f"{card['name']}, fp16 products: {told}"
