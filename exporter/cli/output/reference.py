"""Write `docs/cli.md` from the commands and errors themselves.

python -m exporter.cli.output.reference docs/cli.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from exporter.cli import cli
from exporter.errors import ExporterError

_WIDTH = 80
_HEAD = """\
# Command line

Written from the commands themselves; after a change, run `make docs`.

- Results go to standard output, progress and messages to standard error. Progress is shown only
  on a terminal.
- With `--json`, standard output holds one JSON document and nothing else.
- An error has one to three lines: what is wrong, where, and what to do. `exporter --debug COMMAND`
  adds the traceback and what libraries print.
"""
# Exit codes that are no class of `exporter.errors`.
_OTHER_CODES = {
    0: "Done.",
    1: "A bug in exporter: please report it with the traceback of `exporter --debug`.",
    130: "Interrupted (Ctrl-C).",
    143: "Terminated (SIGTERM).",
}


def reference() -> str:
    """Return the page as Markdown: the options of every command, then the exit codes."""
    root = click.Context(cli, info_name="exporter", **cli.context_settings)
    sections = [f"{_HEAD}\n{_help(root)}"]
    for name in cli.list_commands(root):
        command = cli.commands[name]
        context = click.Context(command, root, name)
        sections.append(f"## {name}\n\n{_help(context)}")
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in sorted(_exit_codes()))
    sections.append(f"## Exit codes\n\n| code | meaning |\n| ---: | --- |\n{codes}")
    return "\n\n".join(sections) + "\n"


def _help(context: click.Context) -> str:
    context.terminal_width = _WIDTH
    return f"```\n{context.get_help()}\n```"


def _exit_codes() -> Iterator[tuple[int, str]]:
    """Pair each exit code with its meanings: the first lines of the classes' docstrings."""
    yield from _OTHER_CODES.items()
    meanings: dict[int, list[str]] = {}
    for error in ExporterError.__subclasses__():
        summary = (inspect.getdoc(error) or "").splitlines()[0]
        meanings.setdefault(error.exit_code, []).append(summary)
    yield from ((code, " ".join(lines)) for code, lines in meanings.items())


@click.command()
@click.argument("page", type=click.Path(dir_okay=False, path_type=Path))
def write(page: Path) -> None:
    """Write the reference of the command line to PAGE."""
    page.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    write()
