"""The build command, and the output of plans and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import (
    command,
    complete_keys,
    complete_recipes,
    complete_targets,
    on_option,
    recipe_keys,
)
from exporter.cli.output import formatting
from exporter.cli.output.formatting import moment, option_value
from exporter.cli.output.terminal import Terminal, shown
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.artifact.manifest import Manifest
    from exporter.build.estimate import Resources
    from exporter.build.matrix import Outcome
    from exporter.build.pipeline import BuiltArtifact
    from exporter.engine.on_ray import RayExecutor
    from exporter.recipe import Recipe
    from exporter.system.progress import Progress


def _names() -> dict[str, list[tuple[str, str]]]:
    from exporter.targets import TARGETS

    kinds = ", ".join(TARGETS)
    return {
        "Keys of a recipe": recipe_keys(),
        "Kinds of targets": [(kinds, "each with options of its own, see docs/targets.md")],
    }


@command(
    "recipes/whisper-demo-int8.yaml --dry-run",
    "recipes/mine.yaml -t onnx-int8 --set decoding.num_beams=1",
    "recipes/a.yaml recipes/b.yaml --on ray",
    names=_names,
    extra="build",
)
@click.argument(
    "recipes",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=complete_recipes,
)
@click.option("--checkpoint", metavar="ID_OR_PATH", help="Checkpoint in place of the recipe's.")
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_targets,
    help="Build only the targets of this name or kind; repeatable.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_keys,
    help="Change a key of the recipe, like decoding.num_beams=5; repeatable.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="Folder of artifacts; each recipe gets a folder in it.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan: files, sizes, memory and time; build nothing."
)
@click.option("--force", is_flag=True, help="Rebuild even what is up to date.")
@on_option
def build(
    terminal: Terminal,
    recipes: Sequence[Path],
    overrides: Sequence[str],
    dry_run: bool,
    on: str,
    as_json: bool,
    **how: Any,
) -> None:
    """Build recipes' artifacts into OUTPUT/<recipe>/<target>.

    RECIPES are YAML files. An artifact that is up to date is verified and kept. Of several recipes
    all are checked before the first is built; then one that fails does not stop the others.
    """
    from exporter.artifact.lookup import require_recipe
    from exporter.recipe import read

    for path in recipes:
        require_recipe(path)
    # Before torch is imported, so that a typo is reported at once.
    wanted = [read(path, overrides) for path in recipes]
    executor = None if on == "local" else _opened(on)
    if dry_run:
        _dry_run(terminal, wanted, how, as_json)
        return
    with terminal.progress() as progress:
        ended = list(_outcomes(terminal, executor, wanted, how, progress))
    built = [one for outcome in ended for one in outcome.built]
    if as_json and (built or len(wanted) > 1):
        terminal.say_json(artifacts=[_built_row(one) for one in built])
    elif not as_json:
        _say_built(terminal, built)
    _require_all(ended)


def _opened(on: str) -> RayExecutor:
    from exporter.build.matrix import THREADS
    from exporter.engine.on_ray import open_ray
    from exporter.system.hardware import describe

    return open_ray(on, threads=min(THREADS, describe().cores))


def _outcomes(
    terminal: Terminal,
    executor: RayExecutor | None,
    wanted: Sequence[Recipe],
    how: Mapping[str, Any],
    progress: Progress,
) -> Iterator[Outcome]:
    """Build, and tell errors of several recipes as they come."""
    from exporter.build import matrix

    with executor or nullcontext():
        if executor is None:
            found = matrix.build_here(wanted, **how, progress=progress, expect=terminal.expect)
        else:
            found = matrix.build_on(executor, wanted, **how, progress=progress)
        for outcome in found:
            if len(wanted) > 1:
                for error in outcome.errors:
                    terminal.tell(f"{outcome.recipe.path}: {error}")
            yield outcome


def _require_all(ended: Sequence[Outcome]) -> None:
    """Raise the error of one recipe, or of several one with the first error's exit code."""
    failed = [outcome for outcome in ended if outcome.errors]
    if not failed:
        return
    first = failed[0].errors[0]
    if len(ended) == 1 and len(failed[0].errors) == 1:
        raise first
    names = ", ".join(str(outcome.recipe.path) for outcome in failed)
    msg = f"{len(failed)} of {len(ended)} recipes were not built: {names}"
    if len(ended) == 1:
        msg = "\n".join(str(error).splitlines()[0] for error in failed[0].errors[:3])
    raise type(first)(msg) from first


def _say_built(terminal: Terminal, built: Sequence[BuiltArtifact]) -> None:
    for one in built:
        terminal.say_wrapped(f"{shown(one.path)}: {built_line(one.manifest, reused=one.reused)}")
        if one.untried:
            terminal.say_wrapped(f"  not tried here: {one.untried}", indent="    ")
        for line in choices(one.manifest):
            terminal.say_wrapped(f"  {line}", indent="    ")


def _dry_run(
    terminal: Terminal, wanted: Sequence[Recipe], how: Mapping[str, Any], as_json: bool
) -> None:
    from exporter.build import matrix
    from exporter.build import pipeline as builder
    from exporter.validate.gate.foreseen import obstacles_of

    matrix.require_distinct(wanted)
    with terminal.progress() as progress:
        plans = [builder.dry_run(recipe, **how, progress=progress) for recipe in wanted]
    obstacles = [
        f"{recipe.path}: {why}" if len(wanted) > 1 else why
        for recipe in wanted
        for why in obstacles_of(recipe)
    ]
    rows = [row for found, _ in plans for row in found]
    _say_plan(terminal, rows, plans[0][1], obstacles, as_json)


def _built_row(one: BuiltArtifact) -> dict[str, Any]:
    """Return an artifact as data, with the estimated costs beside the measured ones."""
    figures, reload = one.manifest.build, one.reload
    measured = {
        "size_bytes": one.manifest.size_bytes,
        "peak_rss_bytes": figures.peak_rss_bytes,
        "seconds": figures.seconds,
        "reload_rss_bytes": reload and reload["peak_rss_bytes"],
        "reload_seconds": reload and reload["seconds"],
    }
    return {
        "path": str(one.path),
        "reused": one.reused,
        "digest": one.manifest.digest,
        "size_bytes": one.manifest.size_bytes,
        "predicted": {name: one.prediction.as_row()[name] for name in measured},
        "measured": measured,
        **({"untried": one.untried} if one.untried else {}),
        "manifest": one.manifest.model_dump(mode="json"),
    }


def _say_plan(
    terminal: Terminal,
    rows: list[dict[str, Any]],
    room: Resources,
    obstacles: list[str],
    as_json: bool,
) -> None:
    if as_json:
        terminal.say_json(plan=rows, here=room.as_row(), gate_obstacles=obstacles)
        return
    terminal.draw(formatting.of_plan(rows))
    for row in rows:
        terminal.say_wrapped(*contents(row), indent="    ")
    for artifacts, plan in _plans(rows):
        terminal.say_wrapped(f"quantization of {', '.join(artifacts)}; bytes of weights:")
        terminal.draw(formatting.of_quantization(plan))
        if any(row["tied"] for row in plan):
            terminal.say_wrapped(_TIED)
    terminal.say_wrapped(*formatting.room(room.as_row(), rows))
    terminal.say_wrapped(*(f"The gate cannot pass: {why}." for why in obstacles))


_TIED = "A tied weight, like a head that is the token table, counts 0 bytes before."


def _plans(rows: list[dict[str, Any]]) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Yield every distinct quantization plan with the names of the targets that share it."""
    for index, row in enumerate(rows):
        if row["quantization"] not in [other["quantization"] for other in rows[:index]]:
            same = [other for other in rows if other["quantization"] == row["quantization"]]
            names = dict.fromkeys(Path(other["artifact"]).name for other in same)  # of all recipes
            yield [*names], row["quantization"]


# Files below this share of an artifact are summed in one entry.
_SMALL = 0.01


_CHOSEN = "chosen by timing while it is built; sizes are of the largest candidate"


def contents(row: Mapping[str, Any]) -> list[str]:
    """Return the lines about a planned artifact: its options, and its files with their sizes."""
    options = ", ".join(f"{key}={option_value(value)}" for key, value in row["options"].items())
    large = [f for f in row["files"] if f["size_bytes"] >= _SMALL * row["size_bytes"]]
    entries = [f"{f['path']} {shown_bytes(f['size_bytes'])}" for f in large]
    if small := [f["size_bytes"] for f in row["files"] if f not in large]:
        entries.append(f"{len(small)} small files {shown_bytes(sum(small))}")
    head = f"{row['artifact']}: {options}" if options else row["artifact"]
    lines = [head, f"  {', '.join(entries)}"]
    if "calibration" in row:
        lines.append(f"  ranges of static-int8 modules are calibrated first: {row['calibration']}")
    if open_ := [key for key, value in row["options"].items() if _is_open(value)]:
        lines.append(f"  {', '.join(open_)}: {_CHOSEN}")
    return lines


def _is_open(value: object) -> bool:
    """Return True if the build chooses an option's value, or a part of it."""
    return "auto" in value.values() if isinstance(value, dict) else value == "auto"


def built_line(manifest: Manifest, *, reused: bool) -> str:
    """Return one artifact's line after a build."""
    if reused:
        return f"{shown_bytes(manifest.size_bytes)}, already built, kept"
    cost = f"{manifest.build.seconds:.0f} s, {shown_bytes(manifest.build.peak_rss_bytes)} of memory"
    return f"{shown_bytes(manifest.size_bytes)}, built in {cost}"


def choices(manifest: Manifest) -> Iterator[str]:
    """Yield a line for each graph: the candidate that the build chose, and all their times."""
    for graph, choice in manifest.choices.items():
        if not choice.seconds:
            yield f"{graph}: {choice.chosen}, the only candidate"
            continue
        chosen = moment(choice.seconds[choice.chosen])
        ranked = sorted(choice.seconds.items(), key=lambda pair: pair[1])
        others = ", ".join(f"{c} {moment(s)}" for c, s in ranked if c != choice.chosen)
        cut = f"{' and '.join(map(str, choice.layers))} of {choice.depth} layers"
        whole = choice.layers == (choice.depth,)
        how = "" if whole else f"; extrapolated from {cut}"
        yield f"{graph}: {choice.chosen} ({chosen} a call; {others}{how})"
