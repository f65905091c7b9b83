"""docs/cli.md is what the commands say today, and reads well on a terminal of 80 columns."""

from pathlib import Path

import pytest

from exporter.cli import cli
from exporter.cli.output.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_a_summary_is_shown_whole_in_the_list_of_commands(name: str) -> None:
    command = cli.commands[name]
    summary = (command.help or "").splitlines()[0]
    shown = next(line for line in reference().splitlines() if line.startswith(f"  {name} "))
    assert shown.split(maxsplit=1)[1] == summary


def test_help_fits_80_columns() -> None:
    blocks = reference().split("```\n")[1::2]
    assert len(blocks) == 1 + len(cli.commands)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 80
