"""Help with examples that parse, in the order of work, and the completion of names."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from exporter.cli import cli, main
from exporter.recipe import Recipe
from exporter.targets import TARGETS

RECIPE = "name: x\ncheckpoint: y\ntargets: [{kind: aoti, name: fast}, {kind: onnx-int8}]\n"


def examples(text: str) -> list[list[str]]:
    shown = text.partition("Examples:\n")[2].partition("\n\n")[0]
    return [shlex.split(line)[1:] for line in shown.splitlines()]


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_every_help_has_examples_that_parse(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*filter(None, [name]), "--help"]) == 0
    shown = examples(capfd.readouterr().out)
    assert shown
    for command, *arguments in shown:
        assert not name or command == name
        context = click.Context(cli, obj=object())
        cli.commands[command].make_context(command, arguments, parent=context)


def test_the_commands_are_listed_in_the_order_of_work(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  ([a-z]+)  ", capfd.readouterr().out.partition("Commands:")[2], re.M)
    work = ["init", "build", "validate", "transcribe", "bench", "sign", "push", "pull"]
    assert [name for name in listed if name in work] == work
    assert sorted(listed[: len(cli.commands)]) == sorted(cli.commands)


def test_build_lists_keys_and_kinds(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--help"]) == 0
    out = capfd.readouterr().out
    for name in (*Recipe.model_fields, *TARGETS, "num_beams", "max_clips", "min_clips", "license"):
        assert re.search(rf"\b{name}\b", out.partition("Keys of a recipe:")[2]), name
    order = ["--checkpoint", "--target", "--set", "--output", "--dry-run", "--force", "--json"]
    assert sorted(order, key=out.index) == order


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in ("recipes/a.yaml", "recipes/b.yml", "recipes/note.txt", ".git/x.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(RECIPE)
    for folder in ("speech/aoti", "speech/onnx-int8", "org/name", "org/.aoti.partial"):
        (tmp_path / "artifacts" / folder).mkdir(parents=True)
        (tmp_path / "artifacts" / folder / "manifest.json").touch()
    return tmp_path


def completed(*arguments: str) -> list[str]:
    shell = ShellComplete(cli, {}, "exporter", "_EXPORTER_COMPLETE")
    *given, text = arguments
    return [item.value for item in shell.get_completions(given, text)]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("bu",), ["build"]),
        (("build", ""), ["recipes/a.yaml", "recipes/b.yml"]),
        (("build", "recipes/a"), ["recipes/a.yaml"]),
        (("build", "./re"), []),
        (("build", "recipes/a.yaml", "-t", ""), ["fast", "onnx-int8"]),
        (("build", "recipes/a.yaml", "--target", "f"), ["fast"]),
        (("build", "--target", ""), list(TARGETS)),
        (("build", "absent.yaml", "--target", "a"), ["aoti"]),
        (("build", "--set", "decoding.num"), ["decoding.num_beams="]),
        (("build", "--set", "na"), ["name="]),
        (
            ("validate", "artifacts/s"),
            ["artifacts/speech", "artifacts/speech/aoti", "artifacts/speech/onnx-int8"],
        ),
        (("transcribe", "artifacts/speech/a"), ["artifacts/speech/aoti"]),
        (("push", "artifacts/o"), ["artifacts/org", "artifacts/org/name"]),
        (
            ("transcribe", "artifacts/speech/aoti", "x", "--task", "tra"),
            ["transcribe", "translate"],
        ),
    ],
)
def test_names_are_completed(arguments: tuple[str, ...], found: list[str]) -> None:
    assert completed(*arguments) == found
