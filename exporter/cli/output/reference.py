"""Write `docs/cli.md` from the commands' own help.

python -m exporter.cli.output.reference docs/cli.md
"""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli import cli

_WIDTH = 80
_HEAD = """\
# Command line

Written from the commands' own help; after a change, run `make docs`.

- Results go to standard output, progress and messages to standard error. Progress is shown only
  on a terminal.
- With `--json`, standard output holds one JSON document and nothing else.
- An error has one to three lines: what is wrong, where, and what to do. `exporter --debug COMMAND`
  adds the traceback and what libraries print.
"""


def reference() -> str:
    """Return the page as Markdown: the help of the group and of every command."""
    root = click.Context(cli, info_name="exporter", **cli.context_settings)
    sections = [f"{_HEAD}\n{_help(root)}"]
    for name in cli.list_commands(root):
        command = cli.commands[name]
        context = click.Context(command, root, name)
        sections.append(f"## {name}\n\n{_help(context)}")
    return "\n\n".join(sections) + "\n"


def _help(context: click.Context) -> str:
    context.terminal_width = _WIDTH
    return f"```\n{context.get_help()}\n```"


@click.command()
@click.argument("page", type=click.Path(dir_okay=False, path_type=Path))
def write(page: Path) -> None:
    """Write the reference of the command line to PAGE."""
    page.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    write()
