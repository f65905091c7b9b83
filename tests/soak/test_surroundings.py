"""The same artifact, and the same verdict, in surroundings that nobody planned."""

import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exporter.artifact.report import Report
from tests.support.surroundings import (
    TEXTS,
    Surroundings,
    closed,
    furnished,
    nowhere,
    one_core,
    sealed,
)

KIND = "torch-int8"
Record = Callable[[str, object], None]
# Where Python itself would take UTF-8, it is told not to.
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOWHERE = {"EXPORTER_CACHE": None, "EXPORTER_STATE": None, "XDG_CACHE_HOME": None}
NOBODY = ("unshare", "--user", "--map-user=12345", "--")


# Several oddities at once where they do not meet: a build takes its time.
ODD: dict[tuple[str, ...], Surroundings] = {
    ("spaces", "quotes", "not ASCII", "LC_ALL=C", "NO_COLOR", "umask 077"): Surroundings(
        {"LC_ALL": "C", "LANG": "C", "NO_COLOR": "1"},
        folder="""it's a "größer 日本語 🎧"  `x` \\ ; & $HOME #%s""",
        before=partial(os.umask, 0o077),
    ),
    ("the longest name", "an unknown locale", "TERM=dumb", "umask 000"): Surroundings(
        {"LC_ALL": "xx_XX.UTF-8", "TERM": "dumb"},
        folder="n" * 255,
        before=partial(os.umask, 0),
    ),
    ("a new line", "a dash", "a home that cannot be written", "no PATH"): Surroundings(
        {**NOWHERE, "HOME": "/proc", "PATH": None}, folder="-rf\nx"
    ),
    ("a user without a name", "without a home"): Surroundings(
        {**NOWHERE, "HOME": None, "USER": None, "LOGNAME": None}, around=NOBODY
    ),
    ("ASCII alone", "one core", "no TERM"): Surroundings({**ASCII, "TERM": None}, before=one_core),
    ("no stream at all", "a home that is none"): Surroundings(
        {**NOWHERE, "HOME": "/nowhere"}, before=closed(0, 1, 2)
    ),
}


@pytest.fixture(scope="module")
def plain(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = furnished(tmp_path_factory.mktemp("plain") / "place", tiny_whisper, KIND)
    done = Surroundings().run(place, "build", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("case", ODD, ids=", ".join)
def test_the_same_bytes(
    case: tuple[str, ...], plain: Path, tiny_whisper: Path, tmp_path: Path, record_property: Record
) -> None:
    odd = ODD[case]
    if odd.around == NOBODY:
        tmp_path.parent.chmod(0o755)
    place = furnished(tmp_path / odd.folder, tiny_whisper, KIND)
    done = odd.run(place, "build", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert sealed(place / "artifacts") == sealed(plain / "artifacts")
    record_property("promise", "P22")
    record_property("cases", len(case))


def test_the_same_verdict(plain: Path, tmp_path: Path, record_property: Record) -> None:
    """Texts that are not ASCII are in the report as they are, whatever the locale."""
    place = Path(shutil.copytree(plain, tmp_path / ("n" * 255)))
    done = Surroundings(ASCII).run(place, "validate", "artifacts/tiny", "--threads", "1")
    assert done.returncode in (0, 4), done.stderr
    told = place / "artifacts" / "tiny" / KIND
    report = Report.model_validate_json((told / "report.json").read_bytes())
    assert report.data.clips == len(TEXTS)
    lines = (told / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["text"] for line in lines} == set(TEXTS)
    assert "日本語" in (told / "report.html").read_text(encoding="utf-8")
    record_property("promise", "P22")
    record_property("cases", 1)


def on_a_terminal(place: Path, **variables: str) -> bytes:
    """What a build tells where standard error is a terminal."""
    leader, follower = pty.openpty()
    done = Surroundings(variables).run(
        place, "build", "tiny.yaml", capture_output=False, stdout=subprocess.DEVNULL,
        stderr=follower,
    )  # fmt: skip
    os.close(follower)
    told = b""
    while True:
        try:
            told += os.read(leader, 1 << 16)
        except OSError:  # how a terminal ends
            break
    os.close(leader)
    assert done.returncode == 0, told
    return told


def test_terminals(plain: Path, tmp_path: Path, record_property: Record) -> None:
    place = Path(shutil.copytree(plain, tmp_path / "place"))
    drawn = on_a_terminal(place, TERM="xterm-256color")
    assert set(re.findall(rb"\x1b\[[^a-zA-Z]*[a-zA-Z]", drawn)) == {b"\x1b[K"}
    assert b"\x1b" not in on_a_terminal(place, TERM="dumb")
    assert sealed(place / "artifacts") == sealed(plain / "artifacts")
    record_property("promise", "P22")
    record_property("cases", 2)


READ_ONLY = ("unshare", "-rm", "sh", "-c", 'mount -o bind,ro artifacts artifacts; exec "$@"', "sh")
REFUSED: dict[str, tuple[Surroundings, tuple[str, ...]]] = {
    "no folder below us": (Surroundings(before=nowhere), ()),
    "a file for an output": (Surroundings(), ("--output", "tiny.yaml")),
    "an output that no one can make": (Surroundings(), ("--output", "/proc/artifacts")),
    "an output of too long a name": (Surroundings(), ("--output", "n" * 256)),
    "an output on what is read-only": (Surroundings(around=READ_ONLY), ("--force",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_told(
    case: str, plain: Path, tmp_path: Path, record_property: Record
) -> None:
    odd, options = REFUSED[case]
    place = Path(shutil.copytree(plain, tmp_path / "place"))
    done = odd.run(place, "build", str(place / "tiny.yaml"), *options)
    lines = done.stderr.decode().splitlines()
    assert done.returncode in (2, 3, 8), lines
    assert lines[0].startswith("error: ")
    assert len(lines) <= 3
    assert sealed(place / "artifacts") == sealed(plain / "artifacts")
    record_property("promise", "P22")
    record_property("cases", 1)
