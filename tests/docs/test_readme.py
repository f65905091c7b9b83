"""What README and docs tell people to type is there: commands, options, make targets, files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from exporter.cli import cli
from exporter.recipe import read
from exporter.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _typed(page: str) -> Iterator[str]:
    """Every command line of a page: lines of code blocks, and code spans."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, flags=re.M | re.S)
    for block in blocks:
        joined = block.replace("\\\n", " ")
        yield from (line.strip().removeprefix("$ ") for line in joined.splitlines())
    prose = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands(program: str, *pages: str) -> list[str]:
    lines = {line for page in pages for line in _typed(page)}
    return sorted(line for line in lines if re.match(rf"{program} [a-z-]", line))


@pytest.mark.parametrize("line", commands("exporter", README, *DOCS))
def test_an_exporter_command_exists_with_its_options(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    while words[0] == "--debug":
        words = words[1:]
    if words[0] in ("--help", "--version"):
        return
    command = cli.commands.get(words[0])
    assert command is not None, f"no command `{words[0]}`"
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    given = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
    assert given <= known


@pytest.mark.parametrize("line", commands("make", README, *DOCS))
def test_a_make_target_exists(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
    for word in words:
        assert re.search(rf"^{re.escape(word)}:", MAKEFILE, flags=re.M), f"no target {word}"


def test_the_readme_shows_both_commands_and_every_subcommand() -> None:
    assert {"make demo", "make test"} <= set(commands("make", README))
    shown = {line.split()[1] for line in commands("exporter", README)}
    hidden = set(cli.commands) - shown
    assert not hidden, f"the README shows no call of {', '.join(sorted(hidden))}"


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", README)))
)
def test_a_linked_file_is_there(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_recipe_shown_is_a_recipe(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.M | re.S)
    (tmp_path / "recipe.yaml").write_text(shown)
    assert [target.kind for target in read(tmp_path / "recipe.yaml").targets] == list(TARGETS)


def test_every_option_of_every_target_is_told() -> None:
    told = README.split("### Options of a target")[1].split("###")[0]
    for kind, target in TARGETS.items():
        assert kind in told
        for name in target.Options.model_fields:
            assert f"`{name}`" in told, f"{kind} has an option {name}"


def test_every_command_has_help_for_every_option() -> None:
    for command in cli.commands.values():
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.opts[0]} has no help"
