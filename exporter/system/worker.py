"""Run one heavy step in a process of its own: memory is returned, a crash is contained.

`run` starts `python -m exporter.system.worker` and follows what it tells, a line of JSON each:
progress in a list of two, a result in a list of one, our own warnings as text, the answer as an
object. `main` is the other side. What else the step prints goes to a log. A step runs compilers and
native code: it gets no key of its owner's.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import signal
import site
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
    MachineError,
    ResourceError,
    exhausted,
    exhaustion,
)
from exporter.system import hardware
from exporter.system.progress import Progress
from exporter.system.signals import undisturbed
from exporter.system.tempdirs import scratch

_log = logging.getLogger(__name__)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.I)
# What is built must not depend on switches that nothing of it tells.
_TUNING = re.compile(r"^(TORCHINDUCTOR|TORCH_COMPILE|TORCHDYNAMO|AOT_INDUCTOR)_")
_ERRORS = {kind.__name__: kind for kind in ExporterError.__subclasses__()}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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
    """Call `step` ("module:function", given request and progress) in a fresh process.

    Gives the step's answer with `seconds` and `peak_rss_bytes`. A step that is a generator has
    results instead, and `on_result` is called with each as soon as it comes. The step's own errors
    come back as what they were; an illegal instruction becomes a MachineError, a kill a
    ResourceError, any other crash a BuildError, told with `what` and the last progress.
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
    """Start `step` in a fresh process, which the end of the block kills with all it started.

    The process also ends with the thread that started it.
    """
    with scratch() as place:
        asked, log = place / "request", place / "log"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "exporter.system.worker", step, str(asked)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # What compilers leave when they are killed lies in our folder, and goes with it.
                env={**child_environment(threads), **environment, "TMPDIR": str(place)},
                start_new_session=True,  # a group of its own, to end compilers with it
            )
            try:
                yield Child(process, step, what, log)
            finally:
                _end(process)


@dataclass(frozen=True)
class Child:
    """A step that runs in a process of its own; `log` is what it prints."""

    process: subprocess.Popen[bytes]
    step: str
    what: str
    log: Path

    def answer(
        self, progress: Progress, on_result: Callable[[Any], None] = _unused
    ) -> dict[str, Any]:
        """Follow the step to its end, in any thread; the rest is as `run` says."""
        last, answer = _follow(self.process.stdout, progress, on_result)
        code = self.process.wait()
        text = self.log.read_text(encoding="utf-8", errors="replace")
        _log.debug("%s wrote:\n%s", self.step, text)
        if code:
            raise _death(code, answer, f"{self.what}: {last}", text)
        return answer


def child_environment(threads: int | None = None) -> dict[str, str]:
    """This process's environment without secrets and tuning, offline, with threads if given."""
    dropped = _SECRET, _TUNING
    kept = {n: v for n, v in os.environ.items() if not any(d.search(n) for d in dropped)}
    root = str(Path(__file__).resolve().parents[2])
    if root not in map(os.path.realpath, site.getsitepackages()):  # run from a checkout
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))
    return {
        **kept,
        **(dict.fromkeys(_THREADS, str(threads)) if threads else {}),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a step and everything that it started."""
    with undisturbed():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # waits, and closes the pipe
            pass


def _follow(
    stream: IO[bytes] | None, progress: Progress, on_result: Callable[[Any], None]
) -> tuple[str, dict[str, Any]]:
    """Pass the child's progress, results and warnings on; give its last progress and its answer."""
    last, answer = "starting", {}
    for line in stream or ():
        try:
            told = json.loads(line)
        except ValueError:  # a line cut off by the child's death
            continue
        if isinstance(told, str):
            _log.warning("%s", told)
        elif isinstance(told, dict):
            answer = told
        elif len(told) == 1:
            on_result(told[0])
        else:
            last, done = told
            progress(last, done)
    return last, answer


def _death(code: int, answer: dict[str, Any], where: str, log: str) -> Exception:
    """The error behind an exit code: told by the child, or guessed from the signal."""
    if kind := _ERRORS.get(answer.get("error", "")):
        return kind(answer["message"])
    if code == -signal.SIGILL:
        msg = f"{where}: illegal instruction. It was compiled for a CPU with more features."
        return MachineError(msg)
    if code == -signal.SIGKILL:
        msg = f"{where}: killed, most likely because memory ran out.\nFree some memory."
        return ResourceError(msg)
    if code < 0:
        return BuildError(f"{where}: crashed with {signal.Signals(-code).name}. Build it again.")
    lines = log.strip().splitlines() or [f"exit code {code}"]
    return RuntimeError(f"{where}: {lines[-1][:300]}")


def main(step: str, request: str, parent: str) -> int:
    """Run one step here; tell its result, or the error that a user can mend."""
    _die_with(int(parent))
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to the log, only progress to the parent
    started = time.monotonic()

    def progress(what: str, done: float | None) -> None:
        _send(pipe, [what, done])

    logging.getLogger().addHandler(_Warnings(pipe))
    module, _, function = step.partition(":")
    asked = json.loads(Path(request).read_bytes())
    try:
        result = getattr(import_module(module), function)(asked, progress)
        if isinstance(result, Generator):
            for each in result:
                _send(pipe, [each])
            result = {}
    except Exception as caught:
        error = _mendable(caught)
        _send(pipe, {"error": type(error).__name__, "message": str(error)})
        return error.exit_code
    figures = {
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss_bytes": hardware.peak_rss_bytes(),
    }
    _send(pipe, {**figures, **result})
    return 0


def _send(pipe: IO[str], told: object) -> None:
    pipe.write(json.dumps(told) + "\n")
    pipe.flush()


class _Warnings(logging.Handler):
    """Sends our own warnings to the parent, which shows them."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("exporter", "validate"):
            _send(self._pipe, record.getMessage())


def _die_with(parent: int) -> None:
    """Leave with a parent that is killed, instead of writing into a folder that is no more its."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before
            os._exit(1)


def _mendable(error: Exception) -> ExporterError:
    """An error that a user can mend; any other goes on as the bug it is."""
    if isinstance(error, ExporterError):
        return error
    if exhausted(error):
        return ResourceError(exhaustion(error))
    raise error


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
