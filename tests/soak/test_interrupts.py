"""Ctrl-C and SIGTERM: builds, validation and pushes end at once, and leave nothing."""

import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.artifact import store
from tests.support import passing, sweeps
from tests.support.faults import Place, Server, place, start, wait_until
from tests.support.hub import serving as serving_hub
from tests.support.sweeps import Case

Record = Callable[[str, object], None]
INTERRUPTS = pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module")
def over(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(server, place(tmp_path_factory.mktemp("over")), over=True)


@INTERRUPTS
def test_a_build(over: Case, number: str, code: int, record_property: Record) -> None:
    cases = sweeps.interrupt(over, 45, number, code)
    record_property("promise", "P21")
    record_property("cases", cases)


@INTERRUPTS
def test_validation(over: Case, number: str, code: int, record_property: Record) -> None:
    over.where.restore()
    assert over.server.run(over.where, over.arguments).code == 0
    cases = sweeps.interrupt_validation(over.server, over.where, 30, number, code)
    record_property("promise", "P21")
    record_property("cases", cases)


@INTERRUPTS
def test_a_push(tmp_path: Path, number: str, code: int, record_property: Record) -> None:
    """Interrupted at each of its requests; a push after that arrives, in one commit."""
    folder = passing.make(tmp_path / "artifacts" / "speech" / "onnx-int8")
    before, cases = store.verify(folder), 0
    requests = _pushed(folder, tmp_path, None, number)[1]
    for at in range(requests):
        ended, _ = _pushed(folder, tmp_path, at, number)
        assert ended in (code, 0), at
        assert ended == code or at == requests - 1
        assert store.verify(folder) == before
        assert not [path for path in tmp_path.rglob("*") if ".partial-" in path.name]
        cases += 1
    record_property("promise", "P21")
    record_property("cases", cases)


def _pushed(folder: Path, place: Path, at: int | None, number: str) -> tuple[int, int]:
    """Push to a fresh Hub, with a signal at one request; then, if it was cut off, again."""
    with serving_hub(TOKEN, part_size=65_536) as hub:
        repo = hub.api.create("org/speech", private=True)
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(place / "hf")}
        command = [sys.executable, "-m", "exporter", "push", str(folder)]

        def run() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, env={**os.environ, **environment, "NO_PROXY": "*"}, stderr=subprocess.PIPE
            )

        started: list[subprocess.Popen[bytes]] = []

        def meddle(count: int, _request: object) -> None:
            if count == at:
                started[0].send_signal(signal.Signals[number])
                time.sleep(0.2)  # the client hears of it before it hears the answer

        hub.fault = meddle
        started.append(run())
        said = started[0].communicate()[1].decode()
        assert "Traceback" not in said, said
        hub.fault = lambda _number, _request: None
        asked = len(hub.requests)
        if started[0].returncode:
            again = run()
            told = again.communicate()[1].decode()
            assert again.returncode == 0, told
        assert len(repo.commits) == 2, "the initial one, and ours"
        return started[0].returncode, asked


@INTERRUPTS
@pytest.mark.parametrize("kind", ["torch-int8", "onnx-int8"])
def test_a_terminal(over: Case, kind: str, number: str, code: int, record_property: Record) -> None:
    """A real build that draws; impatient users press Ctrl-C again and again."""
    chance, where = random.Random(kind + number), over.where.of(kind)
    for _ in range(4):
        where.restore()
        where.forget()
        ended, shown = _at_a_terminal(where, number, chance.uniform(1.0, 6.0))
        # Before the command listens, the kernel ends it: to a shell the same code.
        assert ended in (code, -signal.Signals[number]), shown
        assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l"), "the cursor stays hidden"
        assert "Traceback" not in shown
        assert where.left() == []
        assert where.listed() == []
        assert wait_until(lambda: not where.running())
    record_property("promise", "P21")
    record_property("cases", 4)


def _at_a_terminal(where: Place, number: str, after: float) -> tuple[int, str]:
    ours, its = pty.openpty()
    with start(where, where.building, stderr=its) as build:
        os.close(its)
        shown = b""
        due, sent = time.monotonic() + after, 0
        with suppress(OSError):  # the terminal is gone when its last user is
            while True:
                if time.monotonic() > due and sent < 3:
                    build.send_signal(signal.Signals[number])
                    sent, due = sent + 1, time.monotonic() + 0.03
                os.set_blocking(ours, False)
                try:
                    piece = os.read(ours, 4096)
                except BlockingIOError:
                    if build.poll() is not None:
                        break
                    time.sleep(0.01)
                    continue
                shown += piece
        build.wait()
    os.close(ours)
    return build.returncode, re.sub(r"\r", "", shown.decode(errors="replace"))


def test_the_compilers_end_too(over: Case, record_property: Record) -> None:
    """Interrupted while it compiles: neither compilers nor their temporary files are left."""
    where = over.where.of("aoti")
    where.restore()
    with start(where, where.building) as build:
        assert wait_until(lambda: any("cc1plus" in told for told in where.running()), 120)
        build.send_signal(signal.SIGINT)
        assert build.wait() == 130
    assert where.running() == []
    assert where.left() == []
    record_property("promise", "P21")
    record_property("cases", 1)
