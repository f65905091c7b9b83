"""Measure how several processes on one machine share its cores and its memory, and tell it.

So many fresh processes of so many threads open the same artifact, or the float32 original, warm up,
and begin together to transcribe the same window of speech, each as often as the others. Their rate
is that of all windows from the first one's beginning to the last one's end. Conversions and
workers are those of benchmarks/peers/run.py; figures are kept in one file for each machine, and
without checkpoints that file is told.

    python -m benchmarks.random_checkpoints small checkpoints/small
    python -m benchmarks.scaling checkpoints/small --work FOLDER
    python -m benchmarks.scaling checkpoints/small --work FOLDER --layout 4x8 --layout 32x1

By default all layouts are measured whose processes and threads are powers of two, and whose threads
are together no more than the machine's cores. Processes are not bound to cores. It needs an idle
machine: a measurement from which others took more than a twentieth of all cores is taken again, up
to twice.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from threading import Timer
from typing import IO, Any

import click

from benchmarks.peers.results import (
    entry_for,
    open_results,
    place,
    require_entries,
    save_results,
    spread,
)
from benchmarks.peers.rounds import (
    ATTEMPTS,
    DISTURBED,
    Bench,
    Failed,
    Setting,
    command_of,
    convert,
    environment_of,
    reason,
    request_for,
    require_tokens,
    write_audio,
)
from benchmarks.peers.systems import OWN, RIVALS, Rival
from benchmarks.peers.workers.worker import foreign_cpu_s
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.system.hardware import describe

RESULTS = Path(__file__).resolve().parent / "results" / "scaling.json"
KINDS: dict[str, Rival] = {
    **{kind: RIVALS[kind] for kind in ("aoti", "onnx-int8", "torch-int8")},
    "original": Rival("float32 original", OWN, "transformers_worker", None, {"dtype": "float32"}),
}
HOUR_S = 3600


@dataclass(frozen=True, order=True)
class Layout:
    """So many processes, each with so many threads."""

    threads: int
    processes: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"


class LayoutType(click.ParamType[Layout]):
    """PROCESSESxTHREADS, like 4x2."""

    name = "layout"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Layout:
        """Read the two numbers."""
        found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", str(value))
        if found is None:
            self.fail(f"{value!r} is not PROCESSESxTHREADS, like 4x2", param, ctx)
        return Layout(processes=int(found[1]), threads=int(found[2]))


def layouts(cores: int) -> list[Layout]:
    """Return all layouts of powers of two that fill so many cores at most."""
    powers = [1 << power for power in range(cores.bit_length())]
    return [Layout(t, n) for t in powers for n in powers if n * t <= cores]


@click.command()
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--work", type=click.Path(path_type=Path), help="Where artifacts are kept.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="Default: all.")
@click.option(
    "--layout",
    "chosen",
    multiple=True,
    type=LayoutType(),
    metavar="PROCESSESxTHREADS",
    help="Repeatable; these alone, even if the machine has fewer cores.",
)
@click.option("--tokens", default=64, show_default=True, help="Decoded in every window.")
@click.option("--batch", default=1, show_default=True, help="Windows transcribed together.")
@click.option(
    "--runs", default=20, show_default=True, help="Batches that each process transcribes."
)
@click.option("--rounds", default=3, show_default=True, help="Of fresh processes, in turns.")
@click.option("--again", is_flag=True, help="Convert anew what an earlier run converted.")
@click.option("--time-limit", default=1800.0, show_default=True, help="Seconds for any process.")
def main(
    checkpoints: tuple[Path, ...],
    work: Path | None,
    results: Path,
    only: Sequence[str],
    chosen: Sequence[Layout],
    tokens: int,
    batch: int,
    runs: int,
    rounds: int,
    again: bool,
    time_limit: float,
) -> None:
    """Measure CHECKPOINTS, then tell all that the file of figures holds."""
    told = open_results(results)
    machine = describe()
    if checkpoints and work is None:
        msg = "--work FOLDER is where artifacts are kept"
        raise click.UsageError(msg)
    for checkpoint in (path.resolve() for path in checkpoints):
        setting = Setting(tokens, machine.cores, batch, beams=1)
        limit = round(0.9 * machine.memory_bytes)
        bench = Bench(Path(work or ".").resolve(), setting, runs, limit, time_limit, lock=None)
        bench.work.mkdir(parents=True, exist_ok=True)
        wanted = sorted(set(chosen or layouts(machine.cores)))
        opened = open_checkpoint(str(checkpoint))
        # Whether the file is this machine's is told before anything is measured.
        entries = {
            each.threads: entry_for(
                told, opened, checkpoint.name, replace(setting, threads=each.threads), "kinds"
            )
            for each in wanted
        }
        kinds = {kind: KINDS[kind] for kind in only or KINDS}
        for kind, layout, row in measure(bench, checkpoint, kinds, wanted, rounds, again):
            entries[layout.threads]["kinds"].setdefault(kind, {})[str(layout.processes)] = row
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))


def measure(
    bench: Bench,
    checkpoint: Path,
    kinds: Mapping[str, Rival],
    wanted: Sequence[Layout],
    rounds: int,
    again: bool,
) -> Iterator[tuple[str, Layout, dict[str, Any]]]:
    """Convert for every kind, measure each in every layout in turns, and yield a row of each."""
    run = datetime.now(UTC).isoformat(timespec="seconds")
    sound = write_audio(bench)
    failed: dict[tuple[str, Layout], str] = {}
    models: dict[str, str] = {}
    for kind, rival in kinds.items():
        try:
            models[kind] = convert(bench, checkpoint, rival, again=again)["model"]
        except Failed as failure:
            failed |= {(kind, layout): str(failure) for layout in wanted}
    places = [(kind, layout) for kind in models for layout in wanted]
    found: dict[tuple[str, Layout], list[dict[str, Any]]] = {each: [] for each in places}
    for number in range(rounds):
        for kind, layout in (each for each in places if each not in failed):
            try:
                one = together(bench, checkpoint, kinds[kind], models[kind], sound, layout)
            except Failed as failure:
                failed[kind, layout] = str(failure)
                click.echo(f"{checkpoint.name} {kind} {layout}: {failure}", err=True)
                continue
            found[kind, layout].append(one)
            click.echo(
                f"{checkpoint.name} round {number + 1} {kind} {layout}: "
                f"{one['windows_per_h']:,.0f} windows an hour, others {one['foreign_share']:.0%}",
                err=True,
            )
    for kind, layout in [*places, *(each for each in failed if each not in found)]:
        head = {"label": kinds[kind].label, "run": run}
        if (kind, layout) in failed:
            yield kind, layout, {**head, "failed": failed[kind, layout]}
        else:
            yield kind, layout, {**head, **figures(found[kind, layout], bench)}


def figures(rounds: Sequence[Mapping[str, Any]], bench: Bench) -> dict[str, Any]:
    """What several rounds of one kind and layout showed, as one row."""
    return {
        "versions": rounds[0]["versions"],
        "windows_of_each": bench.runs * bench.setting.batch,
        "windows_per_h": spread([each["windows_per_h"] for each in rounds]),
        "seconds": spread([value for each in rounds for value in each["seconds"]]),
        "peak_rss_bytes": max(each["peak_rss_bytes"] for each in rounds),
        "foreign_share": max(each["foreign_share"] for each in rounds),
    }


def together(
    bench: Bench, checkpoint: Path, rival: Rival, model: str, sound: Path, layout: Layout
) -> dict[str, Any]:
    """One round of fresh processes; again where others took the machine meanwhile.

    Raises:
        Failed: A process could not do it, or decoded another number of tokens.
    """
    bench = replace(bench, setting=replace(bench.setting, threads=layout.threads))
    attempts: list[dict[str, Any]] = []
    for _ in range(ATTEMPTS):
        answers, busy_s = _answers(bench, checkpoint, rival, model, sound, layout.processes)
        for answer in answers:
            require_tokens(answer, bench.setting)
        attempts.append(_as_one(bench, answers, busy_s))
        if attempts[-1]["foreign_share"] <= DISTURBED:
            break
    return min(attempts, key=lambda attempt: float(attempt["foreign_share"]))


def _as_one(bench: Bench, answers: Sequence[Mapping[str, Any]], busy_s: float) -> dict[str, Any]:
    """What processes did together; `busy_s` are the cores' seconds that were not idle."""
    began = min(each["began_s"] for each in answers)
    took_s = max(each["ended_s"] for each in answers) - began
    foreign_s = busy_s - sum(each["cpu_s"] for each in answers)
    capacity_s = took_s * len(os.sched_getaffinity(0))
    windows = bench.runs * bench.setting.batch * len(answers)
    return {
        "windows_per_h": HOUR_S * windows / took_s,
        "seconds": [value for each in answers for value in each["seconds"]],
        "peak_rss_bytes": max(each["peak_rss_bytes"] for each in answers),
        "foreign_share": round(max(0.0, foreign_s / capacity_s), 3),
        "versions": answers[0]["versions"],
    }


def _answers(
    bench: Bench, checkpoint: Path, rival: Rival, model: str, sound: Path, processes: int
) -> tuple[list[dict[str, Any]], float]:
    """Start the processes, let all begin at once, and return their answers.

    Also returns the seconds of all cores that were not idle while they transcribed, without this
    process's own.
    """
    request = request_for(bench, checkpoint, rival, model, sound, waits=True)
    command, variables = command_of(bench, rival, request), environment_of(bench, rival.variables)
    with ExitStack() as stack:
        running: list[tuple[subprocess.Popen[str], IO[str]]] = []
        for _ in range(processes):
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=variables,
                )
            )
            stack.callback(process.kill)
            running.append((process, errors))
        limit = Timer(bench.time_limit_s, _kill, [running])
        limit.start()
        stack.callback(limit.cancel)
        for each in running:
            _line(*each)
        before = foreign_cpu_s()
        for process, _ in running:
            process.stdin.close()  # type: ignore[union-attr]
        answers = [json.loads(_line(*each)) for each in running]
        return answers, foreign_cpu_s() - before


def _kill(running: Sequence[tuple[subprocess.Popen[str], IO[str]]]) -> None:
    for process, _ in running:
        process.kill()


def _line(process: subprocess.Popen[str], errors: IO[str]) -> str:
    """Return the next line of a process; raise Failed where there is none."""
    line: str = process.stdout.readline()  # type: ignore[union-attr]
    if not line:
        process.wait()
        errors.seek(0)
        raise Failed(reason(process.returncode, errors.read()))
    return line


def tables(results: dict[str, Any]) -> str:
    """Markdown: a table for each shape, and where it was measured."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry["batch"], entry["tokens"], entry["parameters"], entry["shape"]

    entries = sorted(results["entries"], key=key)
    parts = [table(list(each)) for _, each in groupby(entries, key)]
    return "\n\n".join([*parts, place(results)])


def table(entries: Sequence[dict[str, Any]]) -> str:
    """A row for each layout of one shape, a column for each kind."""
    first = entries[0]
    kinds = [kind for kind in KINDS if any(kind in entry["kinds"] for entry in entries)]
    windows = "one window" if first["batch"] == 1 else f"{first['batch']} windows"
    lines = [
        ["processes x threads", *(KINDS[kind].label for kind in kinds)],
        ["---"] + ["---:"] * len(kinds),
    ]
    for entry in sorted(entries, key=lambda entry: int(entry["threads"])):
        counts = {int(count) for rows in entry["kinds"].values() for count in rows}
        for count in sorted(counts):
            cells = (_cell(entry["kinds"].get(kind, {}), count) for kind in kinds)
            lines.append([str(Layout(entry["threads"], count)), *cells])
    lines.append(["memory of a process", *(_memory(entries, kind) for kind in kinds)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"**{first['shape']}**, {first['parameters'] / 1e6:.0f} M, {windows} at a time, "
        f"{first['tokens']} tokens each: windows an hour in all (times one process)\n\n{body}"
    )


def _cell(rows: Mapping[str, Any], count: int) -> str:
    row = rows.get(str(count), {})
    if "windows_per_h" not in row:
        return f"cannot: {row['failed']}" if "failed" in row else ""
    rate = row["windows_per_h"]["median"]
    one = rows.get("1", {}).get("windows_per_h")
    ratio = f" ({rate / one['median']:.2f})" if one and count > 1 else ""
    return f"{rate:,.0f}{ratio}"


def _memory(entries: Sequence[dict[str, Any]], kind: str) -> str:
    peaks = [
        row["peak_rss_bytes"]
        for entry in entries
        for row in entry["kinds"].get(kind, {}).values()
        if "peak_rss_bytes" in row
    ]
    return f"{max(peaks) / 1e9:.2f} GB" if peaks else ""


if __name__ == "__main__":
    main()
