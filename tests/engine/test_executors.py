"""Tasks on local processes: answers in order, bounded, and nothing left running."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter.engine.executors import LocalExecutor, Task, answers
from exporter.errors import BuildError, DataError
from exporter.system.progress import Progress, silent
from exporter.system.tempdirs import scratch

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
def test_tasks_run_beside_each_other(workers: int, tmp_path: Path) -> None:
    """Each of two workers waits for the other, so they run beside each other."""
    others = [[], [], [], []] if workers == 1 else [[1], [0], [3], [2]]
    heard: list[float] = []

    def progress(_what: str, done: float | None) -> None:
        heard.append(done or 0)

    found = list(answers(LocalExecutor(workers), tasks(tmp_path, others), progress))
    assert sorted(answer["number"] for answer in found) == [0, 1, 2, 3]
    assert len({answer["pid"] for answer in found}) == 4
    assert not any(alive(answer["pid"]) for answer in found)
    assert heard == sorted(heard)
    assert 0.5 < heard[-1] < 1  # those that have ended count whole


def test_a_tasks_error_is_raised_and_ends_the_others(tmp_path: Path) -> None:
    (endless,) = tasks(tmp_path, [[7]])  # task 7 never begins
    failing = Task(f"{__name__}:fail", {"folder": str(tmp_path), "others": [0]}, "x")
    with pytest.raises(DataError, match="the third clip is no audio"):
        list(answers(LocalExecutor(2), [failing, endless], silent))


def test_an_interrupt_ends_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes while the parent waits for the first answer."""
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid-$$\nexec sleep 60\n")
    child.chmod(0o755)
    monkeypatch.setattr("exporter.system.worker.sys.executable", str(child))

    def interrupted(*_: object, **_how: object) -> None:
        while len(list(tmp_path.glob("pid-*"))) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("exporter.engine.executors.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(answers(LocalExecutor(2), tasks(tmp_path, [[], [], []]), silent))
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
        list(answers(LocalExecutor(workers), [one, crashing], silent))


@dataclass(frozen=True)
class Kept(Task):
    """A task that keeps what its step answered, if it ended well."""

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        with scratch() as place:
            yield {**self.request, "folder": str(place)}
            shutil.copy(place / f"begun-{self.request['number']}", self.request["keep"])


class Unread(Task):
    """A task whose data cannot be read."""

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        msg = "the first clip is no audio"
        raise DataError(msg)
        yield {}


@pytest.mark.parametrize("workers", [1, 2])
def test_one_tasks_error_does_not_stop_the_others(workers: int, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    keep.mkdir()
    unread = Unread(f"{__name__}:meet", {}, "x")
    failing = Task(f"{__name__}:fail", {"folder": str(tmp_path), "others": []}, "x")
    known = {"others": [], "keep": str(keep)}
    good = [Kept(f"{__name__}:meet", {"number": number, **known}, "x") for number in (0, 2)]
    lost = Kept(f"{__name__}:fail", {"number": 1, **known}, "x")
    mixed = [good[0], failing, lost, unread, good[1]]
    found = dict(LocalExecutor(workers).map(mixed, silent))
    failed = [isinstance(found[place], DataError) for place in range(5)]
    assert failed == [False, True, True, True, False]
    assert sorted(path.name for path in keep.iterdir()) == ["begun-0", "begun-2"]


def test_a_task_that_ends_early_waits_for_none(tmp_path: Path) -> None:
    """The first one ends only when the third has begun, which needs the second one's place."""
    places = [place for place, _ in LocalExecutor(2).map(tasks(tmp_path, [[2], [], []]), silent)]
    assert places.index(1) < places.index(0)
