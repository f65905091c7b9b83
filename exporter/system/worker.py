"""Run one heavy step in a process of its own: memory is returned, a crash is contained.

`run` starts `python -m exporter.system.worker` and reads lines of JSON from it: progress as a list
of two, a result as a list of one, warnings as a string, and the answer as an object. `main` is the
child's side. All other output goes to a log. A step runs compilers and native code, so it gets the
environment of `child_environment`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from exporter.errors import (
    BuildError,
    ExporterError,
    IntegrityError,
    MachineError,
    ResourceError,
    exhausted,
    exhaustion,
    needing,
)
from exporter.system import hardware, signals
from exporter.system.environment import child_environment
from exporter.system.progress import Progress
from exporter.system.signals import undisturbed
from exporter.system.tempdirs import scratch

_log = logging.getLogger(__name__)


class Killed(ResourceError):
    """A step whose process was killed, most likely because memory ran out."""


_ERRORS: dict[str, type[ExporterError]] = {
    kind.__name__: kind for kind in (*ExporterError.__subclasses__(), Killed)
}
_LEAST_BYTES = 4 << 30  # address space that any step may have
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _unused(_result: Any) -> None:
    """Do nothing with a result."""


def run(
    step: str,
    request: dict[str, Any],
    progress: Progress,
    *,
    what: str,
    threads: int | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    on_result: Callable[[Any], None] = _unused,
) -> dict[str, Any]:
    """Call a function in a fresh process.

    Args:
        step: "module:function", which is called with the request and a progress function.
        request: Plain data for JSON.
        progress: Receives the step's progress.
        what: The step's name in messages.
        threads: Number of threads of the numerical libraries; None for their default.
        environment: Additional environment variables.
        on_result: Called with each result of a step that is a generator, as soon as it arrives.

    Returns:
        The step's answer with `seconds` and `peak_rss_bytes`.

    Raises:
        ExporterError: The step's own error.
        IntegrityError: A graph did not end: see `signals.time_limit`.
        MachineError: The process met an illegal instruction.
        Killed: The process was killed.
        ResourceError: Memory or disk ran out.
        BuildError: The process crashed with another signal.
        RuntimeError: Any other error of the step, which is a bug.
    """
    how: dict[str, Any] = {"what": what, "threads": threads, "environment": environment}
    with started(step, request, **how) as child:
        return child.answer(progress, on_result)


@contextmanager
def started(
    step: str,
    request: dict[str, Any],
    *,
    what: str,
    threads: int | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Child]:
    """Start `step` in a fresh process, and kill it and its children when the block ends.

    The process also ends when the thread that started it ends. Arguments are those of `run`.

    Yields:
        The running step.
    """
    hardware.return_free_memory()  # the step needs it, and this process only waits
    with scratch() as place:
        request_file, log = place / "request", place / "log"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "exporter.system.worker", step, str(request_file)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # Files that killed compilers leave are removed with this folder.
                env={**child_environment(threads), **environment, "TMPDIR": str(place)},
                start_new_session=True,  # a process group, to kill its compilers too
            )
            try:
                yield Child(process, step, what, log)
            finally:
                _end(process)


@dataclass(frozen=True)
class Child:
    """A step that runs in a process of its own; `log` is the file of its output."""

    process: subprocess.Popen[bytes]
    step: str
    what: str
    log: Path

    def answer(
        self, progress: Progress, on_result: Callable[[Any], None] = _unused
    ) -> dict[str, Any]:
        """Wait for the step's end, in any thread; results and errors are those of `run`."""
        last, answer = _follow(self.process.stdout, progress, on_result)
        code = self.process.wait()
        text = self.log.read_text(encoding="utf-8", errors="replace")
        _log.debug("%s wrote:\n%s", self.step, text)
        if code:
            raise _death(code, answer, f"{self.what}: {last}", text)
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a step and the processes that it started."""
    with undisturbed():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # waits, and closes the pipe
            pass


def _follow(
    stream: IO[bytes] | None, progress: Progress, on_result: Callable[[Any], None]
) -> tuple[str, dict[str, Any]]:
    """Pass on the child's progress, results and warnings; return its last progress and answer."""
    last, answer = "starting", {}
    for line in stream or ():
        try:
            message = json.loads(line)
        except ValueError:  # a line cut off by the child's death
            continue
        if isinstance(message, str):
            _log.warning("%s", message)
        elif isinstance(message, dict):
            answer = message
        elif len(message) == 1:
            on_result(message[0])
        else:
            last, done = message
            progress(last, done)
    return last, answer


def _death(code: int, answer: dict[str, Any], where: str, log: str) -> Exception:
    """Return the error for an exit code: the child's own, or one derived from the signal."""
    if kind := _ERRORS.get(answer.get("error", "")):
        return kind(answer["message"])
    if code == -signal.SIGILL:
        msg = f"{where}: illegal instruction. It was compiled for a CPU with more features."
        return MachineError(msg)
    if code == -signal.SIGALRM:
        msg = f"{where}: a graph does not end.\nBuild the artifact again, or fetch it again."
        return IntegrityError(msg)
    if code == -signal.SIGKILL:
        msg = f"{where}: killed, most likely because memory ran out.\nFree some memory."
        return Killed(msg)
    if code < 0:
        return BuildError(f"{where}: crashed with {signal.Signals(-code).name}. Build it again.")
    lines = log.strip().splitlines() or [f"exit code {code}"]
    return RuntimeError(f"{where}: {lines[-1][:300]}")


def main(step: str, request: str, parent: str) -> int:
    """Run one step in this process; send its result or its expected error to the parent."""
    _die_with(int(parent))
    _limit_memory()
    signals.end_at_limits()
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries goes to the log, only our messages to the parent
    started = time.monotonic()

    def progress(what: str, done: float | None) -> None:
        _send(pipe, [what, done])

    logging.getLogger().addHandler(_Warnings(pipe))
    module, _, function = step.partition(":")
    data = json.loads(Path(request).read_bytes())
    try:
        with needing():
            result = getattr(import_module(module), function)(data, progress)
            if isinstance(result, Generator):
                for each in result:
                    _send(pipe, [each])
                result = {}
    except Exception as caught:
        error = _expected(caught)
        _send(pipe, {"error": type(error).__name__, "message": str(error)})
        return error.exit_code
    figures = {
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss_bytes": hardware.peak_rss_bytes(),
    }
    _send(pipe, {**figures, **result})
    return 0


def _limit_memory() -> None:
    """Let a graph that asks for more memory than there is fail, before the machine does.

    The limit counts reserved memory as well, so it is twice what is available.
    """
    most = max(2 * hardware.memory_available_bytes(), _LEAST_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _send(pipe: IO[str], message: object) -> None:
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()


class _Warnings(logging.Handler):
    """Sends our own warnings to the parent, which shows them."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] == "exporter":
            _send(self._pipe, record.getMessage())


def _die_with(parent: int) -> None:
    """End this process when its parent is killed, so that it writes into no removed folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent was killed before prctl
            os._exit(1)


def _expected(error: Exception) -> ExporterError:
    """Return an expected error as an ExporterError; raise any other again."""
    if isinstance(error, ExporterError):
        return ResourceError(str(error)) if exhausted(error.__cause__) else error
    if exhausted(error):
        return ResourceError(exhaustion(error))
    raise error


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
