"""The init command: write a CI workflow into a repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import command
from exporter.cli.output.terminal import shown

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal


@command
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--github", is_flag=True, help="Write a workflow for GitHub Actions.")
@click.option(
    "--package", metavar="SPEC", help="Requirement for pip to install; default: this installation."
)
@click.option("--force", is_flag=True, help="Replace a different workflow.")
def init(
    terminal: Terminal, recipe: Path, github: bool, package: str | None, force: bool, as_json: bool
) -> None:
    """Write a CI workflow: build, validate, push what passed.

    The workflow builds and validates every push and pull request, and pushes artifacts to the Hub
    from the main branch.
    """
    if not github:
        msg = "name the CI service: --github"
        raise click.UsageError(msg)
    from exporter.cli.init import workflow
    from exporter.recipe import read

    path = workflow.write(read(recipe), package, force=force)
    if as_json:
        terminal.say_json(path=str(path))
        return
    terminal.say_wrapped(
        f"{shown(path)}: builds and validates every push and pull request, pushes from main",
        "  Needs an environment `huggingface` (Settings, Environments), for the main branch alone, "
        "with the secret HF_TOKEN: a fine-grained token that may write to the recipe's repository.",
    )
