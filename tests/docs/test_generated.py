"""The generated parts of docs/ are current, and help reads well on a terminal of 80 columns."""

import pytest

from docs.generate import CLI_PAGE, DESIGN_PAGE, cli_page, design_page
from exporter.cli import cli


def test_the_page_on_commands_is_current() -> None:
    assert CLI_PAGE.read_text(encoding="utf-8") == cli_page(), "run `make docs`"


def test_the_list_of_modules_is_current() -> None:
    assert DESIGN_PAGE.read_text(encoding="utf-8") == design_page(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_a_summary_is_shown_whole_in_the_list_of_commands(name: str) -> None:
    command = cli.commands[name]
    summary = (command.help or "").splitlines()[0]
    shown = next(line for line in cli_page().splitlines() if line.startswith(f"  {name} "))
    assert shown.split(maxsplit=1)[1] == summary


def test_help_fits_80_columns() -> None:
    blocks = cli_page().split("```\n")[1::2]
    assert len(blocks) == 1 + len(cli.commands)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 80
