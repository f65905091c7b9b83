"""The validate command, and the output of verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import (
    artifacts_argument,
    command,
    device_option,
    on_option,
    trust_option,
)
from exporter.cli.output.table import Column, Table
from exporter.cli.output.terminal import Terminal, shown
from exporter.errors import GateError, RecipeError, exhausted
from exporter.system.hardware import MAX_THREADS
from exporter.system.progress import shown_bytes
from exporter.system.text import in_markdown

if TYPE_CHECKING:
    from exporter.artifact.report import Check, Report
    from exporter.system.accelerators import Device


def _part(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts:
        msg = f"{text!r} is not I/N, a part of N, from 1/N to N/N."
        raise click.BadParameter(msg)
    return number, parts


def _timing(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if text not in ("here", "none") and not re.fullmatch(r"[\w./-]+=[\w./-]+", text):
        msg = f"{text!r} is not here, none or LABEL=VALUE, like exporter-use=timing."
        raise click.BadParameter(msg)
    return text


@command(
    "artifacts/whisper-demo-int8",
    "artifacts/mine/aoti --data clips --clips 100 --report told",
    "artifacts/mine --store s3://bucket/parts --part 3/8",
    "artifacts/mine --store s3://bucket/parts --merge",
    extra="validate",
)
@artifacts_argument
@click.option("--data", metavar="FOLDER_OR_MANIFEST", help="Clips in place of the recipe's.")
@click.option("--clips", type=click.IntRange(min=1), metavar="N", help="Use at most N clips.")
@click.option(
    "--until",
    type=click.Choice(["certain", "all"]),
    default="certain",
    help="Hear clips until the verdict on words is certain, or all; default: certain.",
)
@click.option(
    "--store",
    metavar="FOLDER_OR_ADDRESS",
    help="Keep what is heard there, like s3://bucket/parts; default: in the cache, until the end.",
)
@click.option(
    "--part",
    metavar="I/N",
    callback=_part,
    help="Hear the I-th of N parts into --store; write no report.",
)
@click.option("--merge", is_flag=True, help="Hear nothing: judge what all parts have heard.")
@on_option
@click.option(
    "--timing",
    metavar="WHERE",
    default="here",
    callback=_timing,
    help="Where latency is measured: here (default), LABEL=VALUE of a node of Ray, or none.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show looks, windows and shards; open no audio, hear nothing."
)
@click.option("--reference", metavar="ID_OR_PATH", help="Original checkpoint to compare with.")
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    metavar="N",
    help="For both models; default: all.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Processes that transcribe in parallel, each with --threads; default: 1.",
)
@click.option(
    "--report",
    "into",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the report there, not into the artifact, which `push` reads.",
)
@click.option(
    "--summary", type=click.Path(path_type=Path), help="Append the verdicts to this Markdown file."
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Leave clips out that cannot be read, and name them; more than 1 % do not pass.",
)
@device_option
@trust_option
def validate(
    terminal: Terminal,
    paths: Sequence[Path],
    device: Device | None,
    into: Path | None,
    summary: Path | None,
    part: tuple[int, int] | None,
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Compare artifacts with their original on real audio.

    PATHS are artifacts, or folders of them. Writes report.json, report.html and predictions.jsonl
    into each artifact, or into FOLDER (of several: FOLDER/<artifact>). Exits with 4 unless every
    artifact passes its gate. A command that was killed goes on if it is repeated.
    """
    _require_consistent(how, part, into, summary)
    if part or dry_run:
        _say_work(terminal, paths, {**how, "device": device, "part": part}, dry_run, as_json)
        return
    from exporter.artifact import report as sealed
    from exporter.artifact.store import find_built_for
    from exporter.validate import validate as judge

    if summary:
        _append(summary, "")  # before anything is measured
    with terminal.progress() as progress:
        reports = judge(paths, **how, device=device, into=into, progress=progress)
    folders = [folder for path in paths for folder in find_built_for(device, path)]
    if summary:
        _append(summary, markdown(folders, reports))
    if as_json:
        rows = [
            {"path": str(folder), "report": report.model_dump(mode="json")}
            for folder, report in zip(folders, reports, strict=True)
        ]
        terminal.say_json(reports=rows)
    else:
        _say_reports(terminal, folders, sealed.places(folders, into), reports)
    bad = [
        f"{folder.name} {report.verdict}"
        for folder, report in zip(folders, reports, strict=True)
        if report.verdict != "passed"
    ]
    if bad:
        msg = f"{len(bad)} of {len(reports)} artifacts did not pass the gate: {', '.join(bad)}"
        raise GateError(msg)


def _require_consistent(
    how: Mapping[str, Any],
    part: tuple[int, int] | None,
    into: Path | None,
    summary: Path | None,
) -> None:
    """Refuse options that contradict each other.

    Raises:
        RecipeError: Two do, or one lacks another.
    """
    elsewhere, merge = how["on"] != "local", how["merge"]
    reported = into is not None or summary is not None
    wrong = {
        "--part needs --store, where the parts meet": part and how["store"] is None,
        "--merge needs --store, where the parts are": merge and how["store"] is None,
        "--part hears, and --merge hears nothing: give one of them": part and merge,
        "--part and --merge run without an engine: leave --on out": elsewhere and (part or merge),
        "--part writes no report: leave --report and --summary out": part and reported,
        "--workers is of this machine: leave it out with Ray, which fills its nodes": elsewhere
        and how["workers"] > 1,
        "--timing LABEL=VALUE names a node of Ray: give --on ray": "=" in how["timing"]
        and not elsewhere,
    }
    for message, holds in wrong.items():
        if holds:
            raise RecipeError(message)


def _say_work(
    terminal: Terminal, paths: Sequence[Path], how: dict[str, Any], dry_run: bool, as_json: bool
) -> None:
    """Hear one part of the work, or plan all of it, and tell that."""
    from dataclasses import asdict

    from exporter.cli.output import shards
    from exporter.validate.pipeline import hear_part, plan
    from exporter.validate.subjects import Settings

    settings = Settings(max_clips=how.pop("clips"), **how)
    with terminal.progress() as progress:
        if dry_run:
            planned = plan(paths, settings, progress)
        else:
            heard = hear_part(paths, settings, progress)
    if dry_run and as_json:
        terminal.say_json(looks=[[asdict(look) for look in looks] for looks in planned])
    elif dry_run:
        for looks in planned:
            terminal.draw(shards.of_looks(looks))
    elif as_json:
        terminal.say_json(part=asdict(heard))
    else:
        terminal.say_wrapped(*shards.told(heard, str(how["store"]).partition("?")[0]))


def _append(summary: Path, text: str) -> None:
    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if exhausted(error):
            raise
        msg = f"--summary {summary} cannot be written: {error.strerror}"
        raise RecipeError(msg) from None


def _say_reports(
    terminal: Terminal, folders: list[Path], places: list[Path], reports: list[Report]
) -> None:
    terminal.draw(of_reports(folders, reports))
    for folder, place, report in zip(folders, places, reports, strict=True):
        terminal.say_wrapped(f"{folder.name}: {_verdict(report)}")
        terminal.say_wrapped(*(f"  {line}" for line in _explained(report)), indent="    ")
        terminal.say_wrapped(f"  {shown(place / 'report.html')}")


def _verdict(report: Report) -> str:
    """Return the verdict in a sentence; of checks that did not pass, how many they are."""
    from exporter.validate.page.checks import counted

    timed, clips = report.timed_clips or report.data.clips, report.data.clips
    sample = f" Timed on {timed} of {clips:,} clips." if timed < clips else ""
    if kept := report.reference.kept:
        sample += (
            f" Of the original, {kept:,} of {clips:,} transcripts were kept from earlier runs."
        )
    told = counted(report.checks)
    return f"{told}.{sample}" if told else f"{report.sentence}{sample}"


def _explained(report: Report) -> Iterator[str]:
    """Yield a line for each check that did not pass, or one on how well the tokens agree."""
    from exporter.artifact.evidence import in_words
    from exporter.validate.page.checks import open_checks

    yield from map(_told, open_checks(report.checks))
    yield from on_card(report)
    agreement = in_words(report.agreement, report.faithfulness)
    if report.verdict == "passed" and agreement:
        yield agreement


def on_card(report: Report) -> Iterator[str]:
    """Yield the lines about a card that the models ran on: how many words differ, and its cost."""
    stamp, ours = report.environment.device, report.figures
    if stamp is None:
        return
    yield f"It {report.differing}."
    facts = [str(stamp)]
    if ours.device_memory_bytes is not None:
        facts.append(f"{shown_bytes(ours.device_memory_bytes)} of its memory")
    if ours.first_s is not None:
        facts.append(f"loaded in {ours.load_s:.2f} s, the first text {ours.first_s:.2f} s later")
    yield f"On {', '.join(facts)}."


def _told(check: Check) -> str:
    """Return a check's name, outcome, sentence and advice; of a passed one, name and sentence."""
    from exporter.validate.page.checks import state

    outcome = "" if check.passed else f", {state(check)}"
    return f"{check.name}{outcome}: {check.sentence} {check.advice}".rstrip()


def _titles(reports: Sequence[Report]) -> tuple[str, ...]:
    """Return the titles of the columns; the interval's level, if all have the same."""
    from exporter.validate.gate.judge import percent

    levels = {report.wer_difference.level for report in reports}
    interval = f"points, {percent(levels.pop())} %" if len(levels) == 1 else "points, interval"
    return (
        *("verdict", "WER", "original WER", interval),
        *("latency", "RTF", "load", "memory", "size (of f32)"),
    )


def of_reports(folders: Sequence[Path], reports: Sequence[Report]) -> Table:
    """Return a table with a row for each validated artifact."""
    _, *numbers = _titles(reports)
    figures = (Column(title, right=True) for title in numbers)
    drawn = Table([Column("artifact"), Column("verdict"), *figures])
    for folder, report in zip(folders, reports, strict=True):
        drawn.add(f"{report.artifact.recipe}/{folder.name}", *_figures(report))
    return drawn


def markdown(folders: Sequence[Path], reports: Sequence[Report]) -> str:
    """Return the table of `of_reports` as Markdown, followed by the checks of each gate."""
    titles = _titles(reports)
    rows = [("artifact", *titles), ("---", "---", *["---:"] * (len(titles) - 1))]
    checks = []
    for folder, report in zip(folders, reports, strict=True):
        name = in_markdown(folder.name)
        rows.append((f"{in_markdown(report.artifact.recipe)}/{name}", *_figures(report)))
        checks += [f"- {name}: {in_markdown(_told(check))}" for check in report.checks]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([table, "", *checks, ""])


def _figures(report: Report) -> Iterator[str]:
    """Yield one row's cells, in the order of the columns."""
    original, ours, points = report.reference_figures, report.figures, report.wer_difference
    yield report.verdict
    yield f"{ours.wer:.2%}"
    yield f"{original.wer:.2%}"
    yield f"{points.value * 100:+.2f} [{points.low * 100:+.2f}, {points.high * 100:+.2f}]"
    p95 = report.latency_ratio_p95
    yield f"x {report.latency_ratio.value:.2f}" + (f" (p95 {p95:.2f})" if p95 else "")
    yield f"{ours.rtf:.3f}"
    yield f"{ours.load_s:.2f} s"
    yield shown_bytes(ours.peak_rss_bytes)
    yield f"{shown_bytes(ours.size_bytes)} ({ours.size_bytes / original.size_bytes:.0%})"
