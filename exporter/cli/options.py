"""Options and setup that commands share: `--json`, `--trust`, the terminal, quiet libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal

trust_option = click.option(
    "--trust", is_flag=True, help="Run native code that was built elsewhere and is not signed."
)


def command(function: Callable[..., None]) -> click.Command:
    """Return a click command that calls a function; `exporter.cli` adds it to the group."""

    def run(terminal: Terminal, /, **options: Any) -> None:
        with terminal.quiet():
            function(terminal, **options)

    functools.update_wrapper(run, function)
    json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    named = click.command(
        name=function.__name__.rstrip("_"),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    return named(json_option(click.pass_obj(run)))
