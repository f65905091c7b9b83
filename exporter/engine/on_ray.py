"""Run tasks on Ray: on this machine, or on a cluster that this process is in.

A task is one Ray task, which runs its step in the same fresh process as elsewhere. A node or a
Ray worker that dies is no error: Ray runs the task again on another one, so a step must write its
results whole or not at all. An error of the step's own is not tried again.

Ray sends statistics about its use by default. They are switched off here, whatever the environment
says; a cluster that runs already sends what those who started it let it send.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from exporter import DISTRIBUTION, __version__
from exporter.engine import environment
from exporter.engine.executors import Answer, Outcome, Task, run_task
from exporter.errors import (
    ExporterError,
    HubError,
    MachineError,
    RecipeError,
    ResourceError,
    needing,
)
from exporter.system import hardware
from exporter.system.progress import Progress, shown_bytes, silent
from exporter.system.signals import undisturbed
from exporter.system.worker import Killed

_log = logging.getLogger(__name__)
_KINDS = {kind.__name__: kind for kind in ExporterError.__subclasses__()}
_RETRIES = 5  # of a task whose node or Ray worker died
_AHEAD = 2  # tasks that are handed to Ray, for each that can run
_POLL_S = 0.5
_CONNECT_S = 15.0
_LAST_WAIT_S = 10.0  # for tasks that were cancelled
_STORE_BYTES = 80 << 20  # Ray's shared memory of a node, which small answers do not need
_NODE_ID = "ray.io/node-id"  # a label that Ray gives every node
_HOW_ADDRESSES = "ray, or ray:HOST:PORT, and ?LABEL=VALUE after it for some of the nodes"


def open_ray(on: str, *, threads: int) -> RayExecutor:
    """Return the executor for an address like `ray` or `ray:10.0.0.1:6379?kind=v4`.

    `ray` is the cluster that this process is in (`RAY_ADDRESS`, or one that `ray start` started
    on this machine), or else a Ray on this machine alone, which ends with the executor.

    Args:
        on: The address.
        threads: Threads of a task that does not tell them.

    Raises:
        RecipeError: It is no such address.
    """
    place, _, query = on.partition("?")
    scheme, _, address = place.partition(":")
    for each in (on, os.environ.get("RAY_ADDRESS", "")):
        if each.startswith("ray://"):
            msg = (
                f"{each}: Ray's client has limits for which its documentation recommends jobs:\n"
                "ray job submit -- exporter ... --on ray"
            )
            raise RecipeError(msg)
    host, _, port = address.rpartition(":")
    labels = dict(parse_qsl(query, keep_blank_values=True, separator="&"))
    wrong_query = bool(query) and query.count("=") != len(labels)
    wrong_place = place != "ray" and not (host and port.isdecimal() and int(port) < 1 << 16)
    if scheme != "ray" or wrong_place or wrong_query or "//" in place:
        msg = f"{on!r} is no address of Ray: {_HOW_ADDRESSES}"
        raise RecipeError(msg)
    return RayExecutor(address or None, threads=threads, labels=labels)


@dataclass(frozen=True)
class Amount:
    """What a task takes of a node, or a node has for tasks."""

    cpus: int
    memory_bytes: int = 0
    gpus: int = 0

    def __str__(self) -> str:
        memory = f"{shown_bytes(self.memory_bytes)} of memory" if self.memory_bytes else ""
        counts = ((self.cpus, "CPU"), (self.gpus, "GPU"))
        named = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
        return " and ".join(filter(None, [*named, memory])) or "no CPU"

    def holds(self, other: Amount) -> bool:
        """Return True if another amount is no larger."""
        enough = self.cpus >= other.cpus and self.memory_bytes >= other.memory_bytes
        return enough and self.gpus >= other.gpus


@dataclass(frozen=True)
class Node:
    """A living node: its id, what it has for tasks, and its labels."""

    id: str
    has_for_tasks: Amount
    labels: Mapping[str, str]

    @property
    def cpus(self) -> int:
        """The number of its CPUs."""
        return self.has_for_tasks.cpus

    def runs(self, amount: Amount, labels: Mapping[str, str]) -> bool:
        """Return True if the node could run such a task when it is idle."""
        return self.has_for_tasks.holds(amount) and self.has(labels)

    def has(self, labels: Mapping[str, str]) -> bool:
        """Return True if the node has all these labels."""
        return labels.items() <= self.labels.items()


@dataclass(frozen=True)
class _Ended:
    """What a task on a node sends back.

    Attributes:
        answer: The step's answer; empty after an error.
        error: The name of the error's kind, and its message.
        killed: Whether the step's process was killed.
        lost: Whether every node or Ray worker that ran it died.
        warnings: Our warnings, which the driver shows.
    """

    answer: Answer = field(default_factory=dict)
    error: tuple[str, str] | None = None
    killed: bool = False
    lost: bool = False
    warnings: tuple[str, ...] = ()

    def outcome(self) -> Outcome:
        """Return the answer or the error."""
        return _KINDS[self.error[0]](self.error[1]) if self.error else self.answer


class RayExecutor:
    """Ray, from the beginning of a `with` block to its end.

    Attributes:
        environment: What decides transcripts, which is the same on all nodes: see
            `exporter.engine.environment`.
        is_local: Whether this is a Ray of this machine alone, which the block has started.
    """

    environment: dict[str, Any]
    is_local: bool = False

    def __init__(
        self, address: str | None = None, *, threads: int, labels: Mapping[str, str] | None = None
    ) -> None:
        """Choose a cluster.

        Args:
            address: HOST:PORT of its head, or None: see `open_ray`.
            threads: Threads of a task that does not tell them.
            labels: Nodes without these labels run no tasks.
        """
        self.threads = threads
        self.labels = dict(labels or {})
        self._address = address
        self._ours = False
        self._seen: dict[str, Node] = {}  # also those that died, which a cluster may replace
        self._told_lost: set[str] = set()
        self._ray: Any = None
        self._remote: Any = None

    def __enter__(self) -> RayExecutor:
        """Connect, and compare the nodes.

        Raises:
            MachineError: Ray is missing or another version, no node can run a task, or nodes
                differ in what decides transcripts.
            HubError: The cluster cannot be reached.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when it is imported and when it connects
        with needing("ray"):
            import ray
        self._ray, self._seen, self._told_lost = ray, {}, set()
        self._ours = not ray.is_initialized()
        if self._ours:
            self.is_local = _connect(ray, self._address)
        try:
            self._remote = ray.remote(_on_node)
            fitting = self._require(Amount(self.threads))
            self.environment = self._common(fitting)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect, and end a Ray that the block has started."""
        if self._ours:
            with undisturbed():
                self._ray.shutdown()

    @property
    def version(self) -> str:
        """The engine's name and version."""
        return f"ray {self._ray.__version__}"

    @property
    def workers(self) -> int:
        """The number of tasks of `threads` that run at a time."""
        return max(1, sum(node.cpus // self.threads for node in self._fitting()))

    @property
    def nodes(self) -> dict[str, int]:
        """The number of nodes that run tasks, and of their CPUs."""
        fitting = self._fitting()
        return {"count": len(fitting), "cpus": sum(node.cpus for node in fitting)}

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[int, Outcome]]:
        """Run every task, and yield as they end: see `Executor.map`.

        A task runs again when its node or its Ray worker died, and once, anywhere, when its process
        was killed, as it is where memory runs out. One that no node can hold ends with a
        MachineError.
        """
        waiting = deque(enumerate(tasks))
        running: dict[Any, tuple[int, Task]] = {}
        again: set[int] = set()
        left = len(tasks)
        if tasks:
            self._tell(0, len(tasks), progress)
        try:
            while waiting or running:
                for place, outcome in self._fill(waiting, running):
                    left -= 1
                    yield place, outcome
                ended = self._wait([*running])
                for reference in ended:
                    place, task = running.pop(reference)
                    result = self._result(reference, task)
                    if result.killed and place not in again:
                        again.add(place)
                        waiting.append((place, task))
                        continue
                    left -= 1
                    self._tell(len(tasks) - left, len(tasks), progress)
                    yield place, result.outcome()
                if not ended and not self._fitting():
                    self._tell(len(tasks) - left, len(tasks), progress)
        finally:
            self._cancel([*running])

    def _fill(
        self, waiting: deque[tuple[int, Task]], running: dict[Any, tuple[int, Task]]
    ) -> Iterator[tuple[int, MachineError]]:
        """Hand waiting tasks to Ray, some more than can run; yield those that it could not run."""
        most = _AHEAD * self.workers
        while waiting and len(running) < most:
            place, task = waiting.popleft()
            try:
                running[self._submit(task)] = place, task
            except MachineError as error:
                yield place, error

    def require_labels(self, labels: Mapping[str, str]) -> None:
        """Raise MachineError if no node has these labels."""
        _labelled(self._alive(), labels)

    def alone(self, labels: Mapping[str, str], task: Task) -> Answer:
        """Run a task on one node with these labels, where no other task runs, to measure times.

        It takes all the node's CPUs, so it waits until Ray's other tasks there have ended. It runs
        once more, on another such node if there is one, when its node died or it was killed.

        Raises:
            MachineError: No node has the labels.
            ExporterError: The errors of `worker.run`.
        """
        for _ in range(2):
            chosen = max(_labelled(self._alive(), labels), key=lambda node: node.cpus)
            reference = self._submit(task, chosen)
            try:
                while not self._wait([reference]):
                    pass
                result = self._result(reference, task)
            finally:
                self._cancel([reference])
            if not (result.killed or result.lost):
                break
        outcome = result.outcome()
        if isinstance(outcome, ExporterError):
            raise outcome
        return outcome

    def _submit(self, task: Task, alone: Node | None = None) -> Any:
        """Hand a task to Ray; with `alone`, to that node, of which it takes all CPUs."""
        threads = task.threads or self.threads
        how: dict[str, Any] = {"name": task.what, "retry_exceptions": False}
        if alone:
            how |= {
                "num_cpus": alone.cpus,
                "num_gpus": task.gpus,
                "max_retries": 0,
                "label_selector": {_NODE_ID: alone.id},
            }
            return self._remote.options(**how).remote(task, None)
        self._require(Amount(threads, task.memory_bytes, task.gpus))
        how |= {"num_cpus": threads, "max_retries": _RETRIES, "label_selector": self.labels}
        how["num_gpus"] = task.gpus
        if task.memory_bytes:
            how["memory"] = task.memory_bytes
        return self._remote.options(**how).remote(replace(task, threads=threads), self.environment)

    def _result(self, reference: Any, task: Task) -> _Ended:
        """Return what a task that has ended sent; exceptions that are not ours are raised."""
        try:
            result: _Ended = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            # Every node that ran it died, or Ray killed it there because memory ran out.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            msg = f"{task.what}: lost with its nodes: {reason[:300]}"
            return _Ended(error=(ResourceError.__name__, msg), lost=True)
        for warning in result.warnings:
            _log.warning("%s", warning)
        return result

    def _wait(self, references: list[Any]) -> list[Any]:
        """Return those that have ended, after a short while if none has.

        Signals wait too: of a handler's SystemExit inside Ray's own code only a plain one is left.
        """
        if not references:
            return []
        with undisturbed():
            ended: list[Any] = self._ray.wait(references, timeout=_POLL_S)[0]
        return ended

    def _tell(self, done: int, count: int, progress: Progress) -> None:
        number = self.nodes["count"]
        where = f"{number} node{'' if number == 1 else 's'}"  # 0: Ray waits for one to join
        progress(f"{done} of {count} tasks done, on {where}", done / count)

    def _cancel(self, references: list[Any]) -> None:
        """End tasks and their processes.

        Those that have ended are left alone: Ray 2.60 ends this process if one is cancelled whose
        result is there and whose reply is not ("Tried to complete task that was not pending").
        """
        if not references:
            return
        with undisturbed():
            many = len(references)
            _, running = self._ray.wait(references, num_returns=many, timeout=0)
            for reference in running:
                with suppress(self._ray.exceptions.RayError):
                    self._ray.cancel(reference, force=True)
            self._ray.wait(references, num_returns=many, timeout=_LAST_WAIT_S)

    def _alive(self) -> list[Node]:
        nodes = [
            Node(
                row["NodeID"],
                Amount(*(int(row["Resources"].get(name, 0)) for name in ("CPU", "memory", "GPU"))),
                row["Labels"],
            )
            for row in self._ray.nodes()
            if row["Alive"]
        ]
        self._seen |= {node.id: node for node in nodes}
        lost = self._seen.keys() - {node.id for node in nodes} - self._told_lost
        if lost:
            count = "a node" if len(lost) == 1 else f"{len(lost)} nodes"
            _log.warning("Ray lost %s; what ran there, if anything, runs again", count)
        self._told_lost |= lost
        return nodes

    def _fitting(self) -> list[Node]:
        return [node for node in self._alive() if node.runs(Amount(self.threads), self.labels)]

    def _require(self, amount: Amount) -> list[Node]:
        """Return the nodes that could run a task; a task for none would wait for ever."""
        self._alive()
        labelled = _labelled(self._seen.values(), self.labels)
        fitting = [node for node in labelled if node.runs(amount, {})]
        if not fitting:
            had = [node.has_for_tasks for node in labelled]
            largest = Amount(
                max(each.cpus for each in had),
                max(each.memory_bytes for each in had) if amount.memory_bytes else 0,
                max(each.gpus for each in had),
            )
            msg = (
                f"no node of Ray can run a task of {amount}: "
                f"the largest have {largest}.\nUse fewer --threads, or start a "
                "larger node first; a cluster that grows by itself needs one such node to begin."
            )
            raise MachineError(msg)
        return fitting

    def _common(self, nodes: list[Node]) -> dict[str, Any]:
        """Return the environment of all the nodes, asked on each."""
        found = [told for told in map(self._asked, self._ask(nodes)) if told]
        kinds = Counter(told for told, _ in found)
        if not kinds:
            msg = "all nodes of Ray died while they were asked for their versions: try it again"
            raise MachineError(msg)
        if len(kinds) > 1:
            told = "; ".join(f"{count} of {words}" for words, count in kinds.most_common())
            msg = (
                f"nodes of Ray would round otherwise than others: {told}.\n"
                f"Choose nodes of one kind by a label: --on 'ray?LABEL=VALUE'{_known(nodes)}"
            )
            raise MachineError(msg)
        return found[0][1]

    def _ask(self, nodes: list[Node]) -> list[Any]:
        """Ask every node for its environment, without waiting until CPUs are free."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asking = self._ray.remote(describe_node)
        places = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
        return [asking.options(num_cpus=0, scheduling_strategy=at).remote() for at in places]

    def _asked(self, reference: Any) -> tuple[str, dict[str, Any]] | None:
        """Return one node's environment, in words and as data; None if it died."""
        try:
            while not self._wait([reference]):
                pass
            told: tuple[str, dict[str, Any]] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ImportError):
                raise
            msg = (
                f"a node of Ray cannot import exporter ({error.cause}).\n"
                f"Install it on all nodes: pip install '{DISTRIBUTION}[ray]=={__version__}'"
            )
            raise MachineError(msg) from error
        except self._ray.exceptions.RayError:
            return None
        return told


def describe_node() -> tuple[str, dict[str, Any]]:
    """Return what decides transcripts on the node that runs this, in words and as data."""
    found = environment.describe()
    words = environment.in_words(found)
    return f"{words}, exporter {__version__} ({found['code'][:8]})", found


def _on_node(task: Task, expected: dict[str, Any] | None) -> _Ended:
    """Run a task on the node where Ray calls this.

    Args:
        task: The task.
        expected: The environment that the node must have; None for any.
    """
    with _warnings() as told:
        if expected is not None and environment.describe() != expected:
            msg = (
                f"{task.what}: a node of another kind than the others has joined: "
                f"{describe_node()[0]}.\nEnd it, or choose nodes by a label, and run it again."
            )
            return _Ended(error=(MachineError.__name__, msg))
        try:
            answer = run_task(task, silent)
        except Killed as error:
            return _Ended(error=("ResourceError", str(error)), killed=True, warnings=(*told,))
        except ExporterError as error:
            return _Ended(error=(type(error).__name__, str(error)), warnings=(*told,))
        return _Ended(answer, warnings=(*told,))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect our warnings, which a node's log would swallow."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("exporter")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Take Ray's handlers of signals back at the end of a block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to the cluster, or start a Ray on this machine; return True if it was started.

    Workers get the folder in which this package lies among those that they import from, not the
    working folder, whose files could take the place of modules.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    here: dict[str, Any] = {
        "num_cpus": hardware.describe().cores,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
    }
    try:
        _reach(address or os.environ.get("RAY_ADDRESS", ""))
        with _own_handlers(), chdir(Path(__file__).parents[2]):
            if address is not None:
                ray.init(address=address, **quiet)
                return False
            try:  # refused where there is a cluster, because of num_cpus
                ray.init(**here, **quiet)
            except ValueError:
                ray.init(**quiet)
                return False
            return True
    except (OSError, RuntimeError, ValueError) as error:
        raise _refusal(error, address) from error


def _reach(address: str) -> None:
    """Raise OSError if nobody answers at HOST:PORT, for which Ray itself waits without an end."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


def _refusal(error: Exception, address: str | None) -> ExporterError:
    """Return our error for one of `ray.init`."""
    told = getattr(error, "strerror", None) or str(error).strip()
    reason = (told.splitlines() or [type(error).__name__])[0][:300]
    where = f" at {address}" if address else ""
    if "ersion mismatch" in str(error):
        return MachineError(f"Ray{where} is another version: {' '.join(str(error).split())[:300]}")
    msg = (
        f"cannot connect to Ray{where}: {reason}\n"
        "Run this on a node of the cluster: ray job submit -- exporter ... --on ray"
    )
    return HubError(msg)


def _labelled(nodes: Iterable[Node], labels: Mapping[str, str]) -> list[Node]:
    """Return the nodes with labels.

    Raises:
        MachineError: None has them.
    """
    nodes = list(nodes)
    found = [node for node in nodes if node.has(labels)]
    if not found:
        wanted = ", ".join(f"{name}={value}" for name, value in labels.items()) or "any label"
        msg = f"no node of Ray has the label {wanted}{_known(nodes)}"
        raise MachineError(msg)
    return found


def _known(nodes: Iterable[Node]) -> str:
    """Return the labels that people gave to nodes, for the end of a message."""
    pairs = {pair for node in nodes for pair in node.labels.items()}
    given = sorted(f"{name}={value}" for name, value in pairs if name != _NODE_ID)
    return f" (there are {', '.join(given[:20])})" if given else " (nodes have no labels)"
