"""Write the parts of the documentation that are generated: `make docs`.

docs/cli.md comes from the commands' own help, the list of modules in docs/design.md from their
docstrings, docs/report.schema.json from the report's model. Tests compare all three.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import click

from exporter.artifact.report import Report
from exporter.cli import cli
from tests.support.package_order import PACKAGE_ORDER

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
CLI_PAGE, DESIGN_PAGE, SCHEMA = DOCS / "cli.md", DOCS / "design.md", DOCS / "report.schema.json"
_START, _END = "<!-- modules, written by `make docs` -->", "<!-- end of modules -->"
_WIDTH = 80
_CLI_HEAD = """\
# Command line

Written from the commands' own help; after a change, run `make docs`.

- Results go to standard output, progress and messages to standard error. Progress is a line on a
  terminal, and elsewhere a message a minute. A table that is wider than the terminal is turned on
  its side, and becomes a block for each row where it must; in a pipe nothing is wrapped or cut.
- `eval "$(_EXPORTER_COMPLETE=bash_source exporter)"` in a shell (or `zsh_source`, `fish_source`)
  completes commands, options, recipes, artifacts, targets and keys.
- With `--json`, standard output holds one JSON document and nothing else. Where a command fails,
  the document has `"error": {"message": ..., "exit_code": ...}`, beside the results that there are,
  and standard error has the message as ever.
- An error has one to three lines: what is wrong, where, and what to do. `exporter --debug COMMAND`
  adds the traceback and what libraries print. Lines after the first are indented.
- Text of files, models and servers is printed with control, bidirectional and invisible characters
  escaped, so that it cannot rewrite the screen or begin a line of its own. JSON has the same
  values, in JSON's escapes.
"""


def cli_page() -> str:
    """Return docs/cli.md: the help of the group and of every command."""
    root = click.Context(cli, info_name="exporter", **cli.context_settings)
    sections = [f"{_CLI_HEAD}\n{_help(root)}"]
    for name in cli.list_commands(root):
        context = click.Context(cli.commands[name], root, name)
        sections.append(f"## {name}\n\n{_help(context)}")
    return "\n\n".join(sections) + "\n"


def _help(context: click.Context) -> str:
    context.terminal_width = _WIDTH
    return f"```\n{context.get_help()}\n```"


def design_page() -> str:
    """Return docs/design.md with its list of modules brought up to date."""
    page = DESIGN_PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_START)
    _, _, after = rest.partition(_END)
    modules = "\n\n".join(map(_package, PACKAGE_ORDER))
    return f"{before}{_START}\n{modules}\n{_END}{after}"


def _package(name: str) -> str:
    """Return a package's name and summary, and a line for each of its modules."""
    place = ROOT / "exporter" / name
    if not place.is_dir():
        return f"**{name}.py**: {_summary(place.with_suffix('.py'))}"
    lines = [f"**{name}/**: {_summary(place / '__init__.py')}", ""]
    return "\n".join([*lines, *_modules(place)])


def _modules(package: Path) -> Iterator[str]:
    for path in sorted(package.rglob("*.py"), key=lambda path: (path.parent, path.name)):
        if path.name != "__init__.py":
            yield f"- `{path.relative_to(package).as_posix()}`: {_summary(path)}"


def _summary(module: Path) -> str:
    """Return the first paragraph of a module's docstring in one line."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def report_schema() -> str:
    """Return docs/report.schema.json."""
    return json.dumps(Report.model_json_schema(), indent=1) + "\n"


def main() -> None:
    """Write all of them."""
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    DESIGN_PAGE.write_text(design_page(), encoding="utf-8")
    SCHEMA.write_text(report_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
