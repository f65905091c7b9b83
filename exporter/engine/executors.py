"""Run independent tasks, each in a process of its own: on this machine, or on a cluster.

Latency is not measured through it, because parallel tasks slow each other down.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from exporter.engine import environment
from exporter.errors import ExporterError
from exporter.system import worker
from exporter.system.progress import Progress

Answer = dict[str, Any]
Outcome = Answer | ExporterError


@dataclass(frozen=True)
class Task:
    """One step to run in a process of its own, on this machine or another.

    Attributes:
        step: "module:function", which is called with the request and a progress function.
        request: Plain data for JSON.
        what: The task's name in messages.
        threads: Number of threads of the numerical libraries; None for their default.
        memory_bytes: The memory that the step needs, for an engine that places tasks; 0: unknown.
        gpus: The number of GPUs that it computes on, for such an engine.
    """

    step: str
    request: dict[str, Any]
    what: str
    threads: int | None = None
    memory_bytes: int = 0
    gpus: int = 0

    def is_done(self) -> bool:
        """Return whether there is a result: of a task that ran before its machine was lost."""
        return False

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        """Yield the request, on the machine where the step is about to run.

        What a subclass prepares for the step lasts as long as the block. If the step fails, its
        error is raised in the block, so what follows the `yield` keeps only whole results.
        """
        yield self.request

    def environment(self) -> Mapping[str, str]:
        """Return variables for the step's process, on the machine where it is about to run."""
        return {}


class Executor(Protocol):
    """Runs tasks, up to `workers` at a time."""

    @property
    def workers(self) -> int:
        """The number of tasks that run at a time."""

    @property
    def environment(self) -> dict[str, Any]:
        """The kind of machine that runs tasks: see `engine.environment`."""

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[int, Outcome]]:
        """Run every task. Those that have not ended are killed when the iterator is closed.

        Args:
            tasks: The tasks, which may run in any order, and again if a worker is lost. Each is
                read once, when it is about to run.
            progress: Receives the step of one of the tasks, and the fraction done of all.

        Yields:
            The place of a task, and its answer, or the error as of `worker.run`. One task's error
            does not stop the others.
        """


def answers(executor: Executor, tasks: Sequence[Task], progress: Progress) -> Iterator[Answer]:
    """Yield the tasks' answers as they come.

    Raises:
        ExporterError: The first error of a task; the other tasks are killed.
    """
    for _, outcome in executor.map(tasks, progress):
        if isinstance(outcome, ExporterError):
            raise outcome
        yield outcome


def run_task(task: Task, progress: Progress) -> Answer:
    """Run a task in a fresh process of this machine; raises the exceptions of `worker.run`.

    The answer is empty where its result is there already.
    """
    if task.is_done():
        return {}
    with task.prepared() as request:
        return worker.run(task.step, request, progress, **_how(task))


def _how(task: Task) -> dict[str, Any]:
    return {"what": task.what, "threads": task.threads, "environment": task.environment()}


@dataclass(frozen=True)
class LocalExecutor:
    """Processes on this machine."""

    workers: int = 1

    @property
    def environment(self) -> dict[str, Any]:
        """That of this machine."""
        return environment.describe()

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[int, Outcome]]:
        """Run every task in a fresh process, and yield as they end: see `Executor.map`."""
        shares = _Shares(len(tasks), progress)
        if self.workers == 1:
            for place, task in enumerate(tasks):
                try:
                    outcome: Outcome = run_task(task, shares.of(place, task.what))
                except ExporterError as error:
                    outcome = error
                shares.end(place)
                yield place, outcome
            return
        # This thread starts and ends the processes, so that Ctrl-C ends them; threads read output.
        running: dict[Future[Answer], tuple[int, ExitStack]] = {}

        def ended() -> Iterator[tuple[int, Outcome]]:
            for answer in wait(running, return_when=FIRST_COMPLETED).done:
                yield _end_of(*running.pop(answer), answer, shares)

        with ThreadPoolExecutor(self.workers) as pool, ExitStack() as processes:
            for place, task in enumerate(tasks):
                if len(running) == self.workers:
                    yield from ended()
                process = processes.enter_context(ExitStack())
                try:
                    request = process.enter_context(task.prepared())
                except ExporterError as error:
                    shares.end(place)
                    yield place, error
                    continue
                child = process.enter_context(worker.started(task.step, request, **_how(task)))
                answer = pool.submit(child.answer, shares.of(place, task.what))
                running[answer] = place, process
            while running:
                yield from ended()


def _end_of(
    place: int, process: ExitStack, answer: Future[Answer], shares: "_Shares"
) -> tuple[int, Outcome]:
    try:
        with process:
            outcome: Outcome = answer.result()
    except ExporterError as error:
        outcome = error
    shares.end(place)
    return place, outcome


class _Shares:
    """Combines the progress of parallel tasks."""

    def __init__(self, count: int, progress: Progress) -> None:
        self._done = [0.0] * count
        self._progress = progress
        self._lock = Lock()

    def of(self, place: int, name: str) -> Progress:
        """Return the progress function of one task, whose steps begin with its name."""

        def progress(what: str, done: float | None) -> None:
            with self._lock:
                self._done[place] = max(self._done[place], done or 0)
                self._progress(f"{name}: {what}", sum(self._done) / len(self._done))

        return progress

    def end(self, place: int) -> None:
        """Take note that a task has ended."""
        with self._lock:
            self._done[place] = 1.0
