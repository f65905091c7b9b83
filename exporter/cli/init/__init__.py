"""The init command: start a recipe, and write a CI workflow for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import command, complete_recipes
from exporter.cli.output.terminal import shown

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal

_YAML = (".yaml", ".yml")


@command(
    "openai/whisper-small",
    "models/my-fine-tune --output recipes/mine.yaml --repo ORG/NAME",
    "recipes/mine.yaml --github",
    extra="build",
)
@click.argument("source", metavar="CHECKPOINT_OR_RECIPE", shell_complete=complete_recipes)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Recipe to write; default: recipes/<checkpoint>-int8.yaml.",
)
@click.option("--repo", metavar="ORG/NAME", help="Hub repository for `push`, as `hub.repo`.")
@click.option("--github", is_flag=True, help="Write a workflow for GitHub Actions, too.")
@click.option(
    "--package",
    metavar="SPEC",
    help="Requirement that the workflow gives to pip; default: this installation.",
)
@click.option("--force", is_flag=True, help="Replace a different file.")
def init(
    terminal: Terminal,
    source: str,
    output: Path | None,
    repo: str | None,
    github: bool,
    package: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Start a recipe, or a CI workflow for one.

    CHECKPOINT_OR_RECIPE is a checkpoint (a folder, or ORG/NAME[@REVISION] on the Hub, which is not
    asked), or with --github a recipe. The workflow builds and validates every push and pull
    request, and pushes artifacts to the Hub from the main branch.
    """
    exists = Path(source).suffix in _YAML and not Path(source).is_dir()
    if exists and not github:
        msg = f"{source} is a recipe: run `exporter build {source}`, or add --github"
        raise click.UsageError(msg)
    if exists and (output or repo):
        msg = "--output and --repo are for a new recipe"
        raise click.UsageError(msg)
    if github and not exists and not repo:
        msg = "--github needs --repo ORG/NAME for a new recipe"
        raise click.UsageError(msg)
    from exporter.cli.init import recipe as recipes
    from exporter.cli.init import workflow
    from exporter.recipe import read

    path = Path(source) if exists else recipes.start(source, output, repo, force=force)
    written = workflow.write(read(path), package, force=force) if github else None
    if as_json:
        terminal.say_json(recipe=str(path), workflow=written and str(written))
        return
    if not exists:
        terminal.say_wrapped(
            f"{shown(path)}: a recipe with three targets; name its data, then run",
            f"  exporter build {shown(path)} --dry-run",
        )
    if written:
        terminal.say_wrapped(
            f"{shown(written)}: builds and validates every push and pull request, pushes from main",
            "  Needs an environment `huggingface` (Settings, Environments), for the main branch "
            "alone, with the secret HF_TOKEN: a fine-grained token that may write to the recipe's "
            "repository.",
        )
