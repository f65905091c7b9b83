"""The Dockerfiles of docs/containers: their packages, commands and files are ours."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from exporter.cli import cli
from exporter.formats import pt2

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in (ROOT / "docs" / "containers").glob("*.Dockerfile")}
PAGE = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
PACKAGES = {"aoti": "asr-exporter", "onnx-int8": "asr-exporter[onnxruntime]"}


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile, and its arguments on one line."""
    text = re.sub(r"^#.*\n", "", FILES[name].read_text(encoding="utf-8"), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line]


def test_each_is_shown() -> None:
    assert {*FILES} == {"aoti", "aoti-ctc", "onnx-int8"}
    for path in FILES.values():
        assert f"(containers/{path.name})" in PAGE


@pytest.mark.parametrize("name", PACKAGES)
def test_it_installs_what_runs_its_kind_of_artifact(name: str) -> None:
    lines = instructions(name)
    assert [text for what, text in lines if what == "ARG"] == [f"PACKAGE={PACKAGES[name]}"]
    installs = [text for what, text in lines if what == "RUN" and "pip install" in text]
    assert installs == ['pip install --no-cache-dir --no-compile "$PACKAGE"']


@pytest.mark.parametrize("name", PACKAGES)
def test_its_commands_are_ours(name: str) -> None:
    lines = instructions(name)
    (entry,) = (json.loads(text) for what, text in lines if what == "ENTRYPOINT")
    calls = [shlex.split(text) for what, text in lines if what == "RUN"]
    calls = [call for call in calls if call[0] == "exporter"]
    assert [call[1:] for call in calls] == [["verify", "/artifact"]]
    for program, command, *words in (*calls, [*entry, "speech.flac"]):
        assert program == "exporter"
        cli.commands[command].make_context(command, words, parent=click.Context(cli, obj=object()))
    assert ("--trust" in entry) == (name == "aoti")


def test_the_one_without_python_copies_what_is_there() -> None:
    lines = instructions("aoti-ctc")
    copied = [shlex.split(text)[:-1] for what, text in lines if what == "COPY"]
    named = [source for words in copied for source in words if "--from=build" not in words]
    assert [each for each in named if not (ROOT / each).is_file()] == ["$ARTIFACT"]
    (made,) = (text for what, text in lines if what == "RUN" and "g++ -std" in text)
    assert f"'model/{pt2.LIBRARY}'" in made
    assert not any(what == "RUN" and "python" in text for what, text in lines)
