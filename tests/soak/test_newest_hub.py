"""Pushes and pulls with the newest huggingface_hub, in an environment of its own.

transformers 4.57 keeps it below release 1, so it cannot be installed beside what builds. A push and
a pull need neither transformers nor torch: the same tests run there, in a process without them.
"""

import os
import subprocess
import venv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

PACKAGES = (
    *("huggingface_hub", "filelock", "click", "jinja2", "markupsafe", "numpy", "pydantic"),
    *("ruamel.yaml", "soundfile", "soxr", "hypothesis", "pytest"),
)
TESTS = (
    *("tests/hub/test_push.py", "tests/hub/test_push_refused.py", "tests/hub/test_pull.py"),
    *("tests/soak/test_hub_faults.py", "tests/soak/test_hub_secrets.py"),
)
VERSION = "import importlib.metadata as m; print(m.version('huggingface_hub'))"
HEAVY = (
    "import importlib.util as u; print([n for n in ('torch', 'transformers') if u.find_spec(n)])"
)


@dataclass(frozen=True)
class BuildResult:
    """What the tests there told: the library's release, and by promise the cases."""

    library: str
    passed: int
    cases: dict[str, int]


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> BuildResult:
    root = tmp_path_factory.mktemp("newest")
    venv.create(root / "environment", with_pip=True)
    python = root / "environment" / "bin" / "python"
    _run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *PACKAGES])
    assert _run([python, "-c", HEAVY]) == "[]"
    told = root / "junit.xml"
    tests = [*TESTS, "--quiet", "-p", "no:cacheprovider", f"--junitxml={told}"]
    _run([python, "-m", "pytest", *tests], cwd=repository)
    return _read(told, _run([python, "-c", VERSION]))


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**kept, "PYTHONPATH": str(cwd or ""), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4_000:] + ran.stderr[-2_000:]
    return ran.stdout.strip()


def _read(told: Path, library: str) -> BuildResult:
    cases: dict[str, int] = defaultdict(int)
    tests = list(ElementTree.parse(told).iter("testcase"))
    for test in tests:
        known = {str(one.get("name")): str(one.get("value")) for one in test.iter("property")}
        if promise := known.get("promise"):
            cases[promise] += int(known["cases"])
    assert not [test for test in tests if list(test.iter("failure")) or list(test.iter("skipped"))]
    return BuildResult(library, len(tests), dict(cases))


def test_it_is_of_another_generation(newest: BuildResult) -> None:
    assert int(newest.library.partition(".")[0]) >= 1
    assert newest.passed > 100
    assert version("huggingface_hub").startswith("0.")


@pytest.mark.parametrize("promise", ["P9", "P10", "P11", "P12", "P13", "P15"])
def test_the_promises_hold_with_it(
    newest: BuildResult, promise: str, record_property: Callable[[str, object], None]
) -> None:
    assert newest.cases[promise] > 0
    record_property("promise", promise)
    record_property("cases", newest.cases[promise])
    record_property("hub", newest.library)
