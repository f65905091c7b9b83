"""Build several recipes: here, one after the other, or a target of each on nodes of a cluster."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.build import pipeline
from exporter.build.pipeline import BuiltArtifact
from exporter.build.resolve import Planned
from exporter.engine.executors import Answer, Executor, Task
from exporter.errors import BuildError, BusyError, ExporterError, RecipeError
from exporter.recipe import Recipe, read
from exporter.system.progress import Progress

# CPUs that a build takes on a cluster: more make it faster by little.
THREADS = 2
# A node that died may hold its locks a while longer.
_BUSY_S, _BUSY_TIMES = 2.0, 15
# What the processes of steps get otherwise, so that they stay offline.
_HUB = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN")


@dataclass
class Outcome:
    """What became of one recipe: its artifacts in the recipe's order, and errors."""

    recipe: Recipe
    built: list[BuiltArtifact] = field(default_factory=list)
    errors: list[ExporterError] = field(default_factory=list)


def build_here(
    recipes: Sequence[Recipe],
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    progress: Progress,
    expect: Callable[[float], None] = lambda _seconds: None,
) -> Iterator[Outcome]:
    """Build recipes on this machine, one after the other; a failure does not stop the others.

    Arguments are those of `pipeline.build`.

    Raises:
        ExporterError: A mistake in one of several recipes, before the first is built.
    """
    how: dict[str, Any] = {"output": output, "checkpoint": checkpoint, "targets": targets}
    how |= {"force": force, "progress": progress}
    require_distinct(recipes)
    if len(recipes) > 1:
        for recipe in recipes:
            pipeline.check(recipe, **how)
    for recipe in recipes:
        outcome = Outcome(recipe)
        try:
            outcome.built = pipeline.build(recipe, **how, expect=expect)
        except ExporterError as error:
            outcome.errors.append(error)
        yield outcome


def build_on(
    executor: Executor,
    recipes: Sequence[Recipe],
    *,
    output: Path,
    checkpoint: str | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    progress: Progress,
) -> Iterator[Outcome]:
    """Build every target of recipes as a task of its own, and yield a recipe when all have ended.

    Recipes, local checkpoints and `output` are at the same paths on all nodes. Arguments are those
    of `pipeline.build`.

    Raises:
        ExporterError: A mistake in a recipe, before anything is built.
    """
    if checkpoint is not None and Path(checkpoint).exists():
        checkpoint = str(Path(checkpoint).absolute())
    output = output.absolute()
    how: dict[str, Any] = {"output": output, "checkpoint": checkpoint, "force": force}
    require_distinct(recipes)
    planned = [
        (number, each)
        for number, recipe in enumerate(recipes)
        for each in pipeline.check(recipe, **how, targets=targets, here=False, progress=progress)
    ]
    tasks = [_task(each, recipes[number], how) for number, each in planned]
    outcomes = [Outcome(recipe) for recipe in recipes]
    left = [sum(number == own for own, _ in planned) for number in range(len(recipes))]
    ended: dict[Path, BuiltArtifact] = {}
    for place, answer in executor.map(tasks, progress):
        number, each = planned[place]
        try:
            ended[each.path] = _arrived(each, answer)
        except ExporterError as error:
            outcomes[number].errors.append(error)
        left[number] -= 1
        if not left[number]:
            mine = [each.path for own, each in planned if own == number]
            outcomes[number].built = [ended[path] for path in mine if path in ended]
            yield outcomes[number]


def require_distinct(recipes: Sequence[Recipe]) -> None:
    """Raise RecipeError for two recipes that would be built into the same folder."""
    seen: dict[str, Recipe] = {}
    for recipe in recipes:
        if other := seen.get(recipe.name):
            msg = (
                f"{other.path} and {recipe.path} have the same name, {recipe.name}:\n"
                "give each a name of its own, or build them into different --output"
            )
            raise RecipeError(msg)
        seen[recipe.name] = recipe


class _OnNode(Task):
    """A build on a node: with the node's access to the Hub, which the steps of builds lack."""

    def environment(self) -> Mapping[str, str]:
        """Return all variables of the node, but not those that say where modules lie."""
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**dict.fromkeys(_HUB, "0"), **own}


def _task(planned: Planned, recipe: Recipe, how: Mapping[str, Any]) -> Task:
    request = {
        **how,
        "output": str(how["output"]),
        "recipe": str(recipe.path.absolute()),
        "overrides": list(recipe.overrides),
        "target": planned.path.name,
    }
    costs = planned.prediction
    memory = max(costs.peak_rss_bytes, costs.reload_rss_bytes)
    what = f"{recipe.name}/{planned.path.name}"
    return _OnNode(f"{__name__}:build_target", request, what, memory_bytes=memory)


def build_target(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build one target of a recipe in this process, which has access to the Hub.

    Args:
        request: The recipe's path and overrides, the target, and arguments of `pipeline.build`.
        progress: Receives the current step.

    Returns:
        The artifact's `digest`, `reload` and `untried`.
    """
    recipe = read(Path(request["recipe"]), request["overrides"])
    for left in reversed(range(_BUSY_TIMES)):
        try:
            (built,) = pipeline.build(
                recipe,
                output=Path(request["output"]),
                checkpoint=request["checkpoint"],
                targets=[request["target"]],
                by_name=True,
                force=request["force"],
                progress=progress,
            )
            break
        except BusyError:
            if not left:
                raise
            time.sleep(_BUSY_S)
    return {"digest": built.manifest.digest, "reload": built.reload, "untried": built.untried}


def _arrived(planned: Planned, outcome: Answer | ExporterError) -> BuiltArtifact:
    """Return an artifact that a node has built, which must be there.

    Raises:
        ExporterError: The node's error.
        BuildError: The artifact is not there.
    """
    if isinstance(outcome, ExporterError):
        raise outcome
    manifest = store.read_manifest(planned.path) if planned.path.is_dir() else None
    if manifest is None or manifest.digest != outcome["digest"]:
        msg = (
            f"{planned.path} was built on a node, and is not here.\n"
            "Let --output be a folder that all nodes share, at the same path."
        )
        raise BuildError(msg)
    return BuiltArtifact(
        planned.path, manifest, planned.prediction, outcome["reload"], outcome["untried"]
    )
