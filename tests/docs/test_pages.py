"""README and docs hold what they promise: commands, options, links, recipes, snippets, files."""

import ast
import importlib
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
PATHS = [ROOT / "README.md", ROOT / "recipes/demo/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PATHS}
README = PAGES["README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MOST_LINES = 150
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?[^)]*\)")


def _blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.M | re.S)


def _typed(page: str) -> Iterator[str]:
    """Every command line of a page: lines of code blocks, and code spans."""
    for block in _blocks(r"\w*", page):
        joined = block.replace("\\\n", " ")
        yield from (line.strip().removeprefix("$ ") for line in joined.splitlines())
    prose = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands(program: str, *pages: str) -> list[str]:
    lines = {line for page in pages for line in _typed(page)}
    return sorted(line for line in lines if re.match(rf"{program} [a-z-]", line))


@pytest.mark.parametrize("line", commands("exporter", *PAGES.values()))
def test_an_exporter_command_exists_with_its_options(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    while words[0] == "--debug":
        words = words[1:]
    if words[0] in ("--help", "--version", "COMMAND"):
        return
    command = cli.commands.get(words[0])
    assert command is not None, f"no command `{words[0]}`"
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    known |= {name for parameter in command.params for name in parameter.secondary_opts}
    given = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
    assert given <= known


@pytest.mark.parametrize("line", commands("make", *PAGES.values()))
def test_a_make_target_exists(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
    for word in words:
        assert re.search(rf"^{re.escape(word)}:", MAKEFILE, flags=re.M), f"no target {word}"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_readme_shows_both_commands_and_every_subcommand() -> None:
    assert {"make demo", "make test"} <= set(commands("make", README))
    shown = {line.split()[1] for line in commands("exporter", README)}
    hidden = set(cli.commands) - shown
    assert not hidden, f"the README shows no call of {', '.join(sorted(hidden))}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {target for target, _ in LINK.findall(README)}
    assert {name for name in PAGES if name.startswith("docs/")} <= linked


@pytest.mark.parametrize(
    ("page", "target", "heading"),
    sorted({(page, *link) for page, text in PAGES.items() for link in LINK.findall(text)}),
)
def test_a_link_leads_somewhere(page: str, target: str, heading: str) -> None:
    path = (ROOT / page).parent / target if target else ROOT / page
    assert path.exists()
    if heading:
        titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
        anchors = {re.sub(r"[^\w -]", "", title).replace(" ", "-").lower() for title in titles}
        assert heading in anchors


def _recipes() -> list[str]:
    return [block for page in PAGES.values() for block in _blocks("yaml", page) if "name:" in block]


@pytest.mark.parametrize("shown", _recipes())
def test_a_recipe_shown_is_a_recipe(shown: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(shown)
    recipe = read(tmp_path / "recipe.yaml")
    for index, target in enumerate(recipe.targets):
        recipe.options(index, TARGETS[target.kind].Options)


def test_the_readme_shows_a_recipe_of_all_targets(tmp_path: Path) -> None:
    (shown,) = _blocks("yaml", README)
    (tmp_path / "recipe.yaml").write_text(shown)
    assert [target.kind for target in read(tmp_path / "recipe.yaml").targets] == list(TARGETS)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_is_listed(recipe: Path) -> None:
    assert f"`recipes/{recipe.name}`" in PAGES["docs/recipes.md"]


@pytest.mark.parametrize("kind", TARGETS)
def test_the_options_listed_are_those_of_the_target(kind: str) -> None:
    listed = re.findall(rf"^\| {kind} \| `(\w+)` \|", PAGES["docs/targets.md"], flags=re.M)
    assert sorted(listed) == sorted(TARGETS[kind].Options.model_fields)


def _snippets() -> list[str]:
    return [block for page in PAGES.values() for block in _blocks("python", page)]


@pytest.mark.parametrize("snippet", _snippets())
def test_a_python_snippet_imports_what_is_there(snippet: str) -> None:
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def test_a_file_named_in_prose_is_there() -> None:
    named = {
        (page, name)
        for page, text in PAGES.items()
        for name in re.findall(r"`((?:exporter|tests|benchmarks|validate|recipes)/[\w./-]+)`", text)
    }
    assert named
    missing = sorted((page, name) for page, name in named if not (ROOT / name).exists())
    assert not missing


def test_every_command_has_help_for_every_option() -> None:
    for command in cli.commands.values():
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.opts[0]} has no help"
