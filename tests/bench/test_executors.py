"""Tasks on local processes: answers in order, bounded, and nothing left running."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from exporter.bench.executors import LocalExecutor, Task
from exporter.errors import BuildError, DataError
from exporter.system.progress import Progress, silent

Tasks = list[Task]


def wait_for(paths: list[Path]) -> None:
    """Wait until each of these files is there."""
    while not all(path.exists() for path in paths):
        time.sleep(0.01)


def meet(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A step that ends only when as many others as it is told have begun; the first one last."""
    folder, number = Path(request["folder"]), request["number"]
    (folder / f"begun-{number}").touch()
    progress(f"task {number}", 0.5)
    wait_for([folder / f"begun-{other}" for other in request["others"]])
    return {"number": number, "pid": os.getpid()}


def fail(request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that fails once the others run."""
    wait_for([Path(request["folder"]) / f"begun-{other}" for other in request["others"]])
    msg = "the third clip is no audio"
    raise DataError(msg)


def tasks(folder: Path, others: list[list[int]]) -> Tasks:
    """For each task, which others it waits for."""
    return [
        Task(
            f"{__name__}:meet",
            {"folder": str(folder), "number": number, "others": each},
            f"task {number}",
        )
        for number, each in enumerate(others)
    ]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answers_come_in_the_tasks_order(workers: int, tmp_path: Path) -> None:
    """Each of two workers waits for the other, so they run beside each other."""
    others = [[], [], [], []] if workers == 1 else [[1], [0], [3], [2]]
    heard: list[float] = []

    def progress(_what: str, done: float | None) -> None:
        heard.append(done or 0)

    answers = list(LocalExecutor(workers).map(tasks(tmp_path, others), progress))
    assert [answer["number"] for answer in answers] == [0, 1, 2, 3]
    assert len({answer["pid"] for answer in answers}) == 4
    assert not any(alive(answer["pid"]) for answer in answers)
    assert heard == sorted(heard)
    assert heard[-1] == 0.5


def test_a_tasks_error_is_raised_and_ends_the_others(tmp_path: Path) -> None:
    (endless,) = tasks(tmp_path, [[7]])  # task 7 never begins
    failing = Task(f"{__name__}:fail", {"folder": str(tmp_path), "others": [0]}, "x")
    with pytest.raises(DataError, match="the third clip is no audio"):
        list(LocalExecutor(2).map([failing, endless], silent))


def test_an_interrupt_ends_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes while the parent waits for the first answer."""
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid-$$\nexec sleep 60\n")
    child.chmod(0o755)
    monkeypatch.setattr("exporter.system.worker.sys.executable", str(child))

    def interrupted(_self: object) -> None:
        while len(list(tmp_path.glob("pid-*"))) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(LocalExecutor(2).map(tasks(tmp_path, [[], [], []]), silent))
    pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def crash(_request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that native code ends."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_names_its_task(workers: int, tmp_path: Path) -> None:
    (one,) = tasks(tmp_path, [[]])
    crashing = Task(f"{__name__}:crash", {}, "part 2")
    with pytest.raises(BuildError, match="part 2: starting: crashed with SIGSEGV"):
        list(LocalExecutor(workers).map([one, crashing], silent))
