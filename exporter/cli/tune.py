"""The tune command: find a quantization plan that passes the gate, and write it as a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_recipes, complete_targets
from exporter.cli.output.formatting import table
from exporter.cli.output.terminal import Terminal, shown
from exporter.errors import GateError
from exporter.system.hardware import MAX_THREADS
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.cli.output.table import Table
    from exporter.tune.pipeline import Tuned
    from exporter.tune.results import Figures

_UNITS_S = {"h": 3600, "m": 60, "s": 1}
_MOST_FRAGILE = 5


def _seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Read `30m`, `2h` or `1h30m` as seconds."""
    if text is None:
        return None
    parts = re.findall(r"(\d{1,6})([hms])", text)
    if not parts or "".join(map("".join, parts)) != text or not any(int(n) for n, _ in parts):
        msg = f"{text!r} is not a time like 30m, 2h or 1h30m"
        raise click.BadParameter(msg)
    return float(sum(int(number) * _UNITS_S[unit] for number, unit in parts))


@command(
    "recipes/whisper-demo-int8.yaml --clips calibration",
    "recipes/mine.yaml -t aoti --for size --clips some --budget 30m",
    extra="validate",
)
@click.argument("recipe", type=click.Path(path_type=Path), shell_complete=complete_recipes)
@click.option(
    "-t",
    "--target",
    metavar="NAME",
    shell_complete=complete_targets,
    help="The target to tune, by name or kind; default: the recipe's first.",
)
@click.option(
    "--for",
    "goal",
    type=click.Choice(["speed", "size"]),
    default="speed",
    show_default=True,
    help="What the plan shall save.",
)
@click.option(
    "--clips",
    metavar="FOLDER_OR_MANIFEST",
    help="Recordings to rank groups of modules on, also at an address like s3://bucket/folder; "
    "none of them in the recipe's data; default: those of the recipe's calibration.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="Use at most N of them.",
)
@click.option(
    "--budget",
    "budget_s",
    callback=_seconds,
    metavar="TIME",
    help="Stop after a time like 30m or 2h, with the best plan so far.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    metavar="N",
    help="For the original and each plan; default: all.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.yaml",
    help="The recipe to write; default: RECIPE-tuned.yaml beside it.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def tune(terminal: Terminal, recipe: Path, clips: str | None, as_json: bool, **how: Any) -> None:
    """Find the fastest or smallest quantization that passes the gate.

    Groups of modules are ranked by what quantizing each does to the logits. Plans that keep the
    most harmful groups in float are built and judged by the recipe's gate. Writes the best one as
    a recipe that builds without a search, and a page and figures beside it. An interrupted search
    goes on where it was. Exits with 4 if no plan passes.
    """
    from exporter.artifact.lookup import require_recipe
    from exporter.formats.clips.addresses import source_at
    from exporter.recipe import read

    require_recipe(recipe)
    wanted = read(recipe)  # before torch is imported, so that a typo is reported at once
    source = None if clips is None else source_at(Path(), clips)
    from exporter.tune import pipeline as searching

    with terminal.progress() as progress:
        done = searching.tune(
            wanted,
            searching.Settings(clips=source, **how),
            progress=progress,
            tell=terminal.tell,
            expect=terminal.expect,
        )
    if as_json:
        written = None if done.recipe is None else str(done.recipe)
        figures = done.figures.model_dump(mode="json")
        terminal.say_json(recipe=written, page=str(done.page), search=figures)
    else:
        _say(terminal, done)
    if done.recipe is None:
        raise GateError(_none_passed(done.figures))


def _none_passed(figures: Figures) -> str:
    if not figures.complete:
        count = len(figures.trials)
        return (
            f"the time was over before a plan passed, after {count} plan{'s' * (count != 1)}.\n"
            "Run the same command with a longer --budget: what was done is kept."
        )
    sentence = figures.trials[-1].sentence
    return f"no plan passes, not even with all groups in float: {sentence}"


def _say(terminal: Terminal, done: Tuned) -> None:
    figures = done.figures
    terminal.draw(of_trials(figures))
    fragile = fragile_groups(figures)
    if fragile:
        terminal.say_wrapped(f"In float: {fragile}.")
    if figures.chosen is not None:
        count = len(figures.trials[figures.chosen].quantized)
        terminal.say_wrapped(
            f"{count} of {len(figures.groups)} groups stay quantized{_kept(figures)}."
        )
    if not figures.complete and done.recipe is not None:
        terminal.say_wrapped(
            "The time was over before the search ended: a better plan may exist. Run the same "
            "command with a longer --budget to go on."
        )
    for path in (done.recipe, done.page):
        if path is not None:
            terminal.say_wrapped(f"  {shown(path)}")


def _kept(figures: Figures) -> str:
    """Return which shares of the saved bytes and time the chosen plan keeps."""
    shares = (figures.kept, "bytes"), (figures.kept_time, "time")
    told = [f"{share:.1%} of the {what}" for share, what in shares if share is not None]
    return f", {' and '.join(told)} that quantizing all saves" if told else ""


def of_trials(figures: Figures) -> Table:
    """Return a table with a row for each plan that was judged."""
    names = ("verdict", "WER", "points, at most", "latency", "size", "chosen")
    drawn = table("groups quantized", names)
    for place, trial in enumerate(figures.trials):
        drawn.add(
            f"{len(trial.quantized)} of {len(figures.groups)}",
            trial.told,
            f"{trial.wer:.2%}",
            f"{100 * trial.wer_difference.value:+.2f}, {100 * trial.wer_difference.high:+.2f}",
            f"x {trial.latency_ratio:.2f}",
            shown_bytes(trial.size_bytes),
            "yes" if place == figures.chosen else "",
        )
    return drawn


def fragile_groups(figures: Figures) -> str:
    """Return the groups that the chosen plan keeps in float, the most harmful first."""
    if figures.chosen is None:
        return ""
    left = [group for group in figures.groups if not group.quantized]
    left.sort(key=lambda group: -(group.effect.kl_mean if group.effect else 0.0))
    told = [
        f"{group.name} (KL {group.effect.kl_mean:.2g}, same token {group.effect.top1:.1%})"
        if group.effect
        else group.name
        for group in left[:_MOST_FRAGILE]
    ]
    more = len(left) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")
