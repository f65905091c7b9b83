"""What commands share: `--json`, `--trust`, the terminal, and libraries that are kept quiet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal

trust_option = click.option(
    "--trust", is_flag=True, help="Run an artifact's native code though it was not built here."
)


def command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function; `cli.py` gives it its place."""

    def run(terminal: Terminal, /, **options: Any) -> None:
        with terminal.quiet():
            function(terminal, **options)

    functools.update_wrapper(run, function)
    json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    named = click.command(name=function.__name__.rstrip("_"))
    return named(json_option(click.pass_obj(run)))
