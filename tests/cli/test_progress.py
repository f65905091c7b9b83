"""Progress: truthful, counting down, and told in a pipe too."""

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.cli.output.progress import Line, Pace

WORK = """\
import sys, time
from exporter.cli.output import terminal
terminal._REDRAWN_S = terminal._TOLD_S = 0.05
shown = terminal.Terminal()
with shown.progress() as progress:
    progress("compiling out[v1] :cat:\\x1b[2J", None)
    time.sleep(0.2)
    shown.say("a result")
    progress("timing", 0.5)
    time.sleep(0.2)
shown.tell("error: the end")
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def test_unknown_work_tells_the_time_elapsed_alone(clock: Clock, pace: Pace) -> None:
    pace.tell("compiling", None)
    clock.now += 42
    assert pace.sentence() == "compiling: elapsed 0:42"
    clock.now += 3700
    assert pace.line(80) == "compiling  elapsed 1:02:22"


def test_nothing_done_is_no_bar_and_no_estimate(clock: Clock, pace: Pace) -> None:
    pace.tell("reading", 0.0)
    clock.now += 180
    assert pace.line(80) == "reading  elapsed 3:00"


def test_a_step_tells_the_time_left_by_its_own_speed(clock: Clock, pace: Pace) -> None:
    pace.tell("loading", None)
    clock.now += 600  # says nothing about the next step
    pace.tell("run 1", 0.0)
    clock.now += 3
    pace.tell("run 2", 0.1)
    assert pace.left_s() is None  # too early to tell
    clock.now += 27
    pace.tell("run 5", 0.25)
    assert pace.left_s() == pytest.approx(90)
    assert pace.sentence() == "run 5 25%: elapsed 10:30, about 2 min left"


def test_the_time_left_counts_down_between_reports(clock: Clock, pace: Pace) -> None:
    pace.tell("a", 0.0)
    clock.now += 100
    pace.tell("b", 0.5)
    seen = []
    for _ in range(11):
        seen.append(pace.left_s())
        clock.now += 10
    assert seen[:10] == pytest.approx([100 - 10 * step for step in range(10)])
    assert seen[10] is None  # overdue: nothing is promised any more


def test_a_new_step_forgets_the_speed_of_the_last(clock: Clock, pace: Pace) -> None:
    pace.tell("a", 0.0)
    clock.now += 100
    pace.tell("a", 0.9)
    assert pace.left_s() is not None
    pace.tell("b", 0.0)
    assert pace.left_s() is None


def test_an_estimate_counts_down_and_ends(clock: Clock, pace: Pace) -> None:
    pace.expect(150)
    pace.tell("compiling", None)
    told = []
    for _ in range(6):
        told.append(pace.times())
        clock.now += 30
    assert told == [
        "elapsed 0:00, about 2 min left",
        "elapsed 0:30, about 2 min left",
        "elapsed 1:00, about 2 min left",
        "elapsed 1:30, about 60 s left",
        "elapsed 2:00, about 30 s left",
        "elapsed 2:30",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_line_fits_and_shortens_names_alone(width: int, clock: Clock, pace: Pace) -> None:
    pace.tell("speech/onnx-int8: timing clip 1 of 100 (日本語-very-long-name-of-a-file.flac)", 0.0)
    clock.now += 100
    pace.tell("speech/onnx-int8: timing clip 51 of 100 (日本語-very-long-name-of-a-file.flac)", 0.5)
    line = pace.line(width)
    assert "50%" in line
    assert line.endswith("about 2 min left")
    assert ("elapsed 1:40, " in line) == (width > 40)
    assert sum(2 if each in "日本語" else 1 for each in line) < width


def test_the_line_leaves_while_a_result_is_printed(pace: Pace) -> None:
    written: list[str] = []
    line = Line(written.append, lambda: 80, pace)
    line.tell("a", None)
    with line.hidden():
        written.append("a result\n")
    with line.hidden():
        pass
    assert written == ["\ra  elapsed 0:00\x1b[K", "\r\x1b[K", "a result\n"]


def _pieces(leader: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # how a terminal ends
            return
        yield piece


def test_on_a_terminal() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-c", WORK]
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b"".join(_pieces(leader)).decode()
    os.close(leader)
    assert process.returncode == 0
    assert "\rcompiling out[v1] :cat:\\x1b[2J  elapsed 0:00\x1b[K" in shown
    assert re.search(r"\rtiming  █+░+  50%  elapsed 0:00\x1b\[K", shown)
    assert "\r\x1b[Ka result\r\n" in shown
    assert shown.endswith("\r\x1b[Kerror: the end\r\n")


def test_in_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert done.stdout == "a result\n"
    told = done.stderr.splitlines()
    assert told[-1] == "error: the end"
    assert set(told[:-1]) == {
        "compiling out[v1] :cat:\\x1b[2J: elapsed 0:00",
        "timing 50%: elapsed 0:00",
    }


def test_a_pipe_is_told_once_a_minute_and_never_of_short_work(tmp_path: Path) -> None:
    from exporter.cli.output import terminal

    assert terminal._TOLD_S == 60
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "list"], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stderr == b""
    assert time.monotonic() - began < 60
