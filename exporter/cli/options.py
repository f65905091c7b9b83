"""What commands share: their set-up and help, `--json`, `--trust`, and the completion of names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.errors import ExporterError, MachineError, needing
from exporter.system.accelerators import DEVICES

if TYPE_CHECKING:
    from pydantic import BaseModel

    from exporter.cli.output.terminal import Terminal

Names = Callable[[], Mapping[str, Sequence[tuple[str, str]]]]
_MOST_COMPLETIONS = 200

device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    help="Only artifacts built for it; default: each on its own.",
)
on_option = click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="local|ray|ray:HOST:PORT",
    help="Where work runs: here, on the Ray that this is in or else a local one, or on a cluster.",
)
trust_option = click.option(
    "--trust", is_flag=True, help="Run native code that was built elsewhere and is not signed."
)


class Command(click.Command):
    """A command whose help ends with the names that it takes, and examples."""

    examples: Sequence[str] = ()
    names: Names | None = None
    extra: str | None = None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names, which are looked up now, and the examples."""
        try:
            with needing(self.extra):
                names = self.names() if self.names else {}
        except MachineError as error:
            names = {}
            formatter.write_paragraph()
            formatter.write_text(str(error))
        for title, rows in names.items():
            with formatter.section(title):
                formatter.write_dl(rows)
        with formatter.section("Examples"):
            for example in self.examples:
                line = f"exporter {ctx.info_name} {example}".rstrip()
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def command(
    *examples: str, names: Names | None = None, extra: str | None = None
) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes a click command of a function.

    `exporter.cli` adds the command to its group.

    Args:
        examples: Arguments of calls that the help shows.
        names: Returns further lists of the help by title, as pairs of name and meaning.
        extra: The extra of the installation that it needs; None if the base is enough.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def run(terminal: Terminal, /, **options: Any) -> None:
            with terminal.quiet(), needing(extra):
                function(terminal, **options)

        functools.update_wrapper(run, function)
        named = click.command(
            name=function.__name__.rstrip("_"),
            cls=Command,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        made = named(click.pass_obj(run))
        made.examples, made.names, made.extra = examples, names, extra
        told = "Print the result, or the error, as JSON."
        made.params.append(click.Option(["--json", "as_json"], is_flag=True, help=told))
        return made

    return decorate


def recipe_keys() -> list[tuple[str, str]]:
    """Return the keys of a recipe, each with the keys below it or what it is."""
    from exporter.recipe import Data, Decoding, Gate, Hub, Quantization, Recipe, TargetSpec

    below: dict[str, type[BaseModel]] = {
        "targets": TargetSpec,
        "quantization": Quantization,
        "decoding": Decoding,
        "data": Data,
        "gate": Gate,
        "hub": Hub,
    }
    plain = [name for name in Recipe.model_fields if name not in below]
    inner = [
        (name, ", ".join(below[name].model_fields)) for name in Recipe.model_fields if name in below
    ]
    return [(", ".join(plain), "values"), *inner]


def complete_recipes(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Return the recipes whose paths begin with `text`, up to one folder below."""
    return _beginning(text, ("*.yaml", "*.yml", "*/*.yaml", "*/*.yml"))


def complete_artifacts(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> list[str]:
    """Return the artifacts whose paths begin with `text`, and the folders of them."""
    manifests = _beginning(
        text, ("manifest.json", *("*/" * depth + "manifest.json" for depth in (1, 2, 3)))
    )
    artifacts = [Path(path).parent for path in manifests]
    found = {str(place) for artifact in artifacts for place in (artifact, artifact.parent)}
    return sorted(place for place in found - {"."} if place.startswith(text))


artifacts_argument = click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=complete_artifacts,
)


def complete_targets(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Return the names of the recipe's targets, or all kinds if the recipe is not known yet."""
    # An option without its value keeps click from assigning arguments.
    recipes = context.params.get("recipes") or ()
    given = [context.params.get("recipe"), *recipes, *context.args]
    recipe = next((Path(each) for each in given if each), None)
    return [name for name in _targets(recipe) if name.startswith(text)]


def complete_keys(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Return the keys of a recipe as `--set` takes them."""
    try:
        with needing():
            told = recipe_keys()
    except MachineError:  # told when the command runs
        return []
    keys = [
        f"{key}.{name}=" if inner != "values" else f"{name}="
        for key, inner in told
        if key != "targets"
        for name in (key if inner == "values" else inner).split(", ")
    ]
    return [key for key in keys if key.startswith(text)]


def _targets(recipe: Path | None) -> Iterable[str]:
    from exporter.targets import TARGETS

    if recipe is None:
        return TARGETS
    try:
        with needing():
            from exporter.recipe import read
        return [target.name for target in read(recipe).targets]
    except ExporterError:  # told when the command runs
        return TARGETS


def _beginning(text: str, patterns: Iterable[str]) -> list[str]:
    """Return paths below the folder of a path's beginning, which they continue."""
    folder = text.rpartition("/")[0] + "/" if "/" in text else ""
    found = (str(path) for pattern in patterns for path in _matches(Path(folder or "."), pattern))
    fitting = (path for path in found if path.startswith(text) and path.isprintable())
    return sorted(fitting)[:_MOST_COMPLETIONS]


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in folder.glob(pattern) if "/." not in f"/{path}")
