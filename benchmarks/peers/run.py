"""Measure whole transcriptions of this project's artifacts beside every rival's, and tell them.

For each checkpoint every rival gets an environment of its own, converts the checkpoint in a process
of its own, and then, in interleaved rounds, opens it in fresh processes and transcribes the same
windows of speech: samples in, text out, the same prompt, threads and number of tokens for all.
Figures are kept by shape and setting in one file; without checkpoints that file is told and drawn.

    python -m benchmarks.peers.run checkpoints/tiny checkpoints/small --work FOLDER
    python -m benchmarks.peers.run

It needs an idle machine: what others took of it while a rival was timed is recorded, and a
measurement that was disturbed is taken again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.options import Asked, measuring
from benchmarks.peers.plot import draw
from benchmarks.peers.results import (
    entry_for,
    figures,
    open_results,
    require_entries,
    save_results,
    tables,
)
from benchmarks.peers.rounds import Bench, Failed, convert, prepare, run, write_audio
from benchmarks.peers.systems import RIVALS, Rival
from exporter.checkpoint.checkpoint import open_checkpoint

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results" / "peers.json"
PICTURE = BENCHMARKS.parent / "docs" / "speed.svg"


@click.command()
@measuring
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="The figures.")
@click.option("--picture", type=click.Path(path_type=Path), default=PICTURE, help="Drawn of them.")
@click.option("--only", multiple=True, type=click.Choice(list(RIVALS)), help="Default: all.")
@click.option("--rounds", default=5, show_default=True, help="Fresh processes of each rival.")
@click.option("--runs", default=3, show_default=True, help="Timed transcriptions in each.")
@click.option("--batch", default=1, show_default=True, help="Windows transcribed together.")
@click.option("--beams", default=1, show_default=True)
def main(
    asked: Asked,
    results: Path,
    picture: Path,
    only: Sequence[str],
    rounds: int,
    runs: int,
    batch: int,
    beams: int,
) -> None:
    """Measure CHECKPOINTS, then tell and draw all that the file of figures holds."""
    told = open_results(results)
    rivals = {name: RIVALS[name] for name in only or RIVALS}
    for checkpoint in asked.checkpoints:
        bench = asked.bench(runs, batch=batch, beams=beams)
        opened = open_checkpoint(str(checkpoint))
        entry = entry_for(told, opened, checkpoint.name, bench.setting)
        # Rounds go on with all others when one rival fails; its row tells why.
        entry["rivals"] |= measure(bench, checkpoint, rivals, rounds, asked.again)
        save_results(results, told)
    require_entries(told, results)
    click.echo(tables(told))
    picture.write_text(draw(told), encoding="utf-8")


def measure(
    bench: Bench, checkpoint: Path, rivals: Mapping[str, Rival], rounds: int, again: bool
) -> dict[str, Any]:
    """Convert for every rival, then measure them in turns; a failure is told in its row."""
    run_id = datetime.now(UTC).isoformat(timespec="seconds")
    failed: dict[str, str] = {}
    made: dict[str, dict[str, Any]] = {}
    converted: set[str | None] = set()
    for name, rival in rivals.items():
        try:
            prepare(bench, rival.environment)
            fresh = again and rival.conversion not in converted
            made[name] = convert(bench, checkpoint, rival, again=fresh)
        except Failed as failure:
            failed[name] = str(failure)
            click.echo(f"{checkpoint.name} {name}: {failure}", err=True)
        converted.add(rival.conversion)
    answers = turns(bench, checkpoint, rivals, made, rounds, failed)
    rows: dict[str, Any] = {}
    for name, rival in rivals.items():
        head = {"label": rival.label, "run": run_id}
        if name in failed:
            rows[name] = {**head, "failed": failed[name]}
        else:
            told = figures(answers[name], made[name], rival, bench.setting, bench.window_s)
            rows[name] = {**head, **told}
    return rows


def turns(
    bench: Bench,
    checkpoint: Path,
    rivals: Mapping[str, Rival],
    made: dict[str, dict[str, Any]],
    rounds: int,
    failed: dict[str, str],
) -> dict[str, list[dict[str, Any]]]:
    """In every round a fresh process of each; who fails is left out from then on."""
    sound = write_audio(bench)
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
    for number in range(rounds):
        for name, told in made.items():
            if name in failed:
                continue
            load = os.getloadavg()[0]
            try:
                answer = run(bench, checkpoint, rivals[name], told["model"], sound)
            except Failed as failure:
                failed[name] = str(failure)
                click.echo(f"{checkpoint.name} {name}: {failure}", err=True)
                continue
            answers[name].append({**answer, "load_average": round(load, 2)})
            seconds = " ".join(f"{value:.3f}" for value in answer["seconds"])
            click.echo(
                f"{checkpoint.name} round {number + 1} {name}: {seconds} s, "
                f"others {answer['foreign_share']:.0%}",
                err=True,
            )
    return answers


if __name__ == "__main__":
    main()
