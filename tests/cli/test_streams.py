"""The command where streams are closed or broken, or its folder is gone: an exit code as ever."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.surroundings import Surroundings, closed, nowhere

Record = Callable[[str, object], None]
STREAMS = {"output": (1,), "errors": (2,), "all": (0, 1, 2)}


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize(("command", "code"), [(["list"], 0), (["build", "absent.yaml"], 2)])
def test_closed_streams(
    case: str, command: list[str], code: int, tmp_path: Path, record_property: Record
) -> None:
    done = Surroundings(before=closed(*STREAMS[case])).run(tmp_path, *command)
    assert done.returncode == code
    assert b"Traceback" not in done.stdout + done.stderr
    record_property("promise", "P22")
    record_property("cases", 1)


def test_errors_that_nobody_reads(tmp_path: Path, record_property: Record) -> None:
    """As in `exporter build absent.yaml 2>&1 | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    for streams in ({"stderr": writing}, {"stdout": writing, "stderr": writing}):
        done = Surroundings().run(tmp_path, "build", "absent.yaml", capture_output=False, **streams)
        assert done.returncode == 2
    os.close(writing)
    record_property("promise", "P22")
    record_property("cases", 2)


def test_a_folder_that_is_gone(tmp_path: Path, record_property: Record) -> None:
    """Where torch's libraries end the process without a word."""
    done = Surroundings(before=nowhere).run(tmp_path, "list")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the working directory no longer exists")
    record_property("promise", "P22")
    record_property("cases", 1)


@pytest.mark.parametrize("command", [["machine"], ["build", "absent.yaml"]])
def test_nothing_is_left_open(command: list[str]) -> None:
    """Python's development mode warns of what nobody closed."""
    line = [sys.executable, "-X", "dev", "-m", "exporter", *command]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "ResourceWarning" not in done.stderr
