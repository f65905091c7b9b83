"""What `pip install` gives, and that no text of ours asks for somebody else's package."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
TEXTS = sorted(
    path
    for path in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    if Path(path).suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".j2", ".Dockerfile", "")
    and path != "LICENSE"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS_NAMED = re.compile(rf"(?:{DISTRIBUTION}|'\.)\[([a-z][a-z,-]*)\]")
# The bare name as a requirement: after an installer, or with an extra, a version or an address.
INSTALLED = re.compile(
    r"(?:pip3?|pipx|uv)(?: tool)? (?:install|run|inject|add)(?: +-\S+)* +['\"]?exporter\b"
    r"|(?<![\w./-])exporter(?:\[[a-z,]+\]|\[\{| *@ *git\+| *[=~!<>]=)"
)


@pytest.mark.parametrize("path", TEXTS)
def test_no_text_names_the_stranger_of_the_package_index(path: str) -> None:
    """`exporter` on the index is a tool for notebooks, by others."""
    if path != "tests/test_distribution.py" and (ROOT / path).is_file():
        found = INSTALLED.search((ROOT / path).read_text(encoding="utf-8"))
        assert not found, found


@pytest.mark.parametrize(
    ("line", "names_it"),
    [
        ("pip install exporter", True),
        ("pip install -U 'exporter[sign]'", True),
        ("uv tool install exporter", True),
        ("exporter==1.0", True),
        ("exporter @ git+https://host/x", True),
        (f"pip install {DISTRIBUTION}", False),
        (f"pip install '{DISTRIBUTION}[sign]'", False),
        ("exporter build recipe.yaml", False),
    ],
)
def test_the_check_knows_a_requirement(line: str, names_it: bool) -> None:
    assert bool(INSTALLED.search(line)) is names_it


ASK = {"version", "versions_of", "distribution", "metadata", "requires", "files"}
"""Functions of `importlib.metadata`, and ours over them, that take the name of a distribution."""


@pytest.mark.parametrize("path", [path for path in TEXTS if path.endswith(".py")])
def test_nothing_asks_for_the_version_of_the_stranger(path: str) -> None:
    if (ROOT / path).is_file():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert "exporter" not in set(asked_for(tree))


def asked_for(tree: ast.AST) -> Iterator[str]:
    """The names that a module asks `importlib.metadata` for, or lists as `packages`."""
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ASK
        listed = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).lower() in (
            "packages",
            "_packages",
            "names",
        )
        for inner in ast.walk(node) if called or listed else ():
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner.value


def test_the_check_knows_a_question_for_a_version() -> None:
    for line in (
        'version("exporter")',
        'names = ("exporter", "torch")',
        'm.distribution("exporter")',
    ):
        assert "exporter" in set(asked_for(ast.parse(line)))
    assert not set(asked_for(ast.parse('version("asr-exporter"); print("exporter")'))) & {
        "exporter"
    }


@pytest.mark.parametrize("path", TEXTS)
def test_an_extra_that_a_text_names_is_one(path: str) -> None:
    if (ROOT / path).is_file():
        text = (ROOT / path).read_text(encoding="utf-8")
        named = EXTRAS_NAMED.findall(text)
        extras = {extra for listed in named for extra in listed.split(",")}
        assert extras <= {*PROJECT["optional-dependencies"]}


def test_both_wheels_of_onnxruntime_are_never_asked_for_together() -> None:
    extras = PROJECT["optional-dependencies"]
    asking = {
        extra
        for extra, lines in extras.items()
        if any(line.startswith("onnxruntime") for line in lines)
    }
    assert asking == {"onnxruntime", "onnxruntime-cuda", "onnxruntime-gpu"}
    for lines in extras.values():
        assert not any(re.search(r"\[[^]]*onnxruntime", line) for line in lines)


@pytest.mark.slow
def test_the_wheel_holds_one_package(tmp_path: Path) -> None:
    """A top-level `validate` would collide with configobj's module of that name."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"exporter"}
    assert wheel.name.startswith("asr_exporter-")
    assert {"exporter/runtime/vad/silero_vad_v6.npz", "exporter/runtime/vad/LICENSE"} <= {*names}
    held = {
        name.removeprefix("exporter/") for name in names if name.startswith("exporter/validate")
    }
    assert held == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "validate").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
