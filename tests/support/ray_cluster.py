"""Ray's own cluster of several nodes on one machine, and steps that wait to be killed.

A task of `kept` has four phases. In `prepare`, `rename` and `renamed` its Ray worker waits, before
the step and before and after its result gets its name; in `work` the step's own process does. It
waits at a phase as long as `hold` asks for it.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.engine.executors import Executor, Task
from exporter.engine.on_ray import open_ray
from exporter.errors import ExporterError
from exporter.system.progress import Progress, silent
from exporter.system.tempdirs import scratch

PHASES = ("prepare", "work", "rename", "renamed")
TIMING = {"exporter-use": "timing"}
_STORE = 80 << 20
# A node's death is noticed in three seconds, and one that is only slow is not taken for dead.
_WATCHFUL = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}


class Nodes:
    """A cluster's head, which runs no tasks, and nodes of two CPUs."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        common = {"object_store_memory": _STORE, "include_dashboard": False}
        head = {"num_cpus": 0, "_system_config": _WATCHFUL, **common}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = f"ray:{self.cluster.address}"
        self._labels: dict[str, dict[str, str]] = {}
        self._killed: list[str] = []

    def add(self, labels: dict[str, str], *, wait: bool = True) -> None:
        """Start a node with labels."""
        node = self.cluster.add_node(
            wait=wait, num_cpus=2, labels=labels, object_store_memory=_STORE
        )
        self._labels[node.node_id] = labels

    def kill(self, node_id: str) -> None:
        """Kill a node's raylet with SIGKILL; any thread may do so."""
        (node,) = [each for each in self.cluster.worker_nodes if each.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=False)
        self._killed.append(node_id)

    def restore(self) -> None:
        """Start a node with the same labels for each that was killed."""
        while self._killed:
            self.add(self._labels[self._killed.pop()])


@contextmanager
def cluster(workers: int = 3) -> Iterator[Nodes]:
    """Start a head and this many nodes, of which the first has the label exporter-use=timing."""
    nodes = Nodes()
    try:
        nodes.add(TIMING, wait=False)
        for _ in range(workers - 1):
            nodes.add({}, wait=False)
        nodes.cluster.wait_for_nodes()
        yield nodes
    finally:
        nodes.cluster.shutdown()


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is true, which takes seconds at most even on a busy machine."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Return True if a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@dataclass(frozen=True)
class Kept(Task):
    """A task whose result gets a name from its content, in a folder of results."""

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        """Wait at the phases that are the Ray worker's."""
        folder, number = Path(self.request["folder"]), self.request["number"]
        reach(folder, number, "prepare")
        with scratch() as place:
            yield {**self.request, "into": str(place / "result")}
            reach(folder, number, "rename")
            data = (place / "result").read_bytes()
            results = folder / "results"
            partial = results / f".{number}-{os.getpid()}"
            partial.write_bytes(data)
            partial.replace(results / hashlib.sha256(data).hexdigest())
        reach(folder, number, "renamed")


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A step that writes what depends on its number alone."""
    folder, number = Path(request["folder"]), request["number"]
    with (folder / f"runs-{number}").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    progress("working", 0.5)
    reach(folder, number, "work")
    data = f"the result of {number}\n".encode() * 1000
    Path(request["into"]).write_bytes(data)
    return {"number": number, "sha256": hashlib.sha256(data).hexdigest()}


def kept(folder: Path, count: int) -> list[Kept]:
    """Return tasks whose results get into `folder`/results."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    return [
        Kept(f"{__name__}:work", {"folder": str(folder), "number": number}, f"task {number}", 1)
        for number in range(count)
    ]


def hold(folder: Path, number: int, phase: str, *, to_kill: bool = True) -> None:
    """Let a task wait when it reaches a phase, until `release`; then it goes on, or is killed."""
    (folder / f"hold-{number}-{phase}").write_text("to kill" if to_kill else "")


def release(folder: Path, number: int, phase: str) -> None:
    """Let a task wait at a phase no longer, and its further runs neither."""
    (folder / f"hold-{number}-{phase}").unlink()


def reached(folder: Path, number: int, phase: str) -> dict[str, Any]:
    """Wait until a task waits at a phase; return the `pid` that waits, and its `node`'s id."""
    told = folder / f"reached-{number}-{phase}"
    wait_until(told.exists)
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def reach(folder: Path, number: int, phase: str) -> None:
    """Wait at a phase as long as `hold` asks for it."""
    held = folder / f"hold-{number}-{phase}"
    if not held.exists():
        return
    killed = held.read_text()  # before others are told that they may release it
    partial = folder / f".reached-{number}-{phase}-{os.getpid()}"
    partial.write_text(json.dumps({"pid": os.getpid(), "node": _node()}))
    partial.replace(folder / f"reached-{number}-{phase}")
    while held.exists():
        time.sleep(0.02)
    if killed:
        time.sleep(5)  # what kills is on its way


def _node() -> str | None:
    """Return the id of the node of this Ray worker; None in a step's own process."""
    if "ray" not in sys.modules:
        return None
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else None


def results(folder: Path) -> dict[str, bytes]:
    """Return what is in the folder of results, by name."""
    return {path.name: path.read_bytes() for path in (folder / "results").iterdir()}


def runs(folder: Path, number: int) -> list[int]:
    """Return the processes in which the step of a task began."""
    return [int(pid) for pid in (folder / f"runs-{number}").read_text().split()]


def ended(executor: Executor, tasks: list[Kept]) -> list[dict[str, Any]]:
    """Run tasks; return the answers in the tasks' order, without times."""
    found: dict[int, dict[str, Any]] = {}
    for place, outcome in executor.map(tasks, silent):
        assert not isinstance(outcome, ExporterError), outcome
        assert place not in found
        found[place] = {name: outcome[name] for name in ("number", "sha256")}
    return [found[place] for place in range(len(tasks))]


@contextmanager
def meanwhile(function: Callable[[], None]) -> Iterator[None]:
    """Run a function in a thread beside a block; its exception is raised at the end."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]


def kill(pid: int) -> None:
    """Kill a process with SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def drive(address: str, folder: str, count: str) -> None:
    """Run tasks of `kept` as a driver that can be killed, and write their answers."""
    with open_ray(address, threads=1) as executor:
        answers = ended(executor, kept(Path(folder), int(count)))
    (Path(folder) / "answers").write_text(json.dumps(answers))
