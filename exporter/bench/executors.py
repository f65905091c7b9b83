"""Run independent steps in parallel: one interface for clips, files and builds.

Latency is not measured through it, because parallel tasks slow each other down.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from exporter.system import worker
from exporter.system.progress import Progress

Answer = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One step to run in a process of its own.

    Attributes:
        step: "module:function", which is called with the request and a progress function.
        request: Plain data for JSON.
        what: The task's name in messages.
        threads: Number of threads of the numerical libraries; None for their default.
    """

    step: str
    request: dict[str, Any]
    what: str
    threads: int | None = None


class Executor(Protocol):
    """Runs tasks, up to `workers` at a time."""

    @property
    def workers(self) -> int:
        """The number of tasks that run at a time."""

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[Answer]:
        """Run every task.

        Args:
            tasks: The tasks, which may run in any order, and again if a worker is lost.
            progress: Receives the step of one of the tasks, and the fraction done of all.

        Yields:
            The tasks' answers, in the tasks' order.

        Raises:
            ExporterError: The first error of a task, as in `worker.run`; the others are killed.
        """


@dataclass(frozen=True)
class LocalExecutor:
    """Processes on this machine."""

    workers: int = 1

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[Answer]:
        """Run every task in a fresh process: see `Executor.map`."""
        shares = _Shares(len(tasks), progress)
        if self.workers == 1:
            for place, task in enumerate(tasks):
                how: dict[str, Any] = {"what": task.what, "threads": task.threads}
                yield worker.run(task.step, task.request, shares.of(place), **how)
            return
        # This thread starts and ends the processes, so that Ctrl-C ends them; threads read output.
        running: deque[tuple[ExitStack, Future[Answer]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool, ExitStack() as processes:
            for place, task in enumerate(tasks):
                if len(running) == self.workers:
                    yield _end_of(*running.popleft())
                process = processes.enter_context(ExitStack())
                child = process.enter_context(
                    worker.started(task.step, task.request, what=task.what, threads=task.threads)
                )
                running.append((process, pool.submit(child.answer, shares.of(place))))
            while running:
                yield _end_of(*running.popleft())


def _end_of(process: ExitStack, answer: Future[Answer]) -> Answer:
    with process:
        return answer.result()


class _Shares:
    """Combines the progress of parallel tasks."""

    def __init__(self, count: int, progress: Progress) -> None:
        self._done = [0.0] * count
        self._progress = progress
        self._lock = Lock()

    def of(self, place: int) -> Progress:
        """Return the progress function of one task."""

        def progress(what: str, done: float | None) -> None:
            with self._lock:
                self._done[place] = max(self._done[place], done or 0)
                self._progress(what, sum(self._done) / len(self._done))

        return progress
