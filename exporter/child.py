"""One heavy step in a process of its own: its memory is given back, its crash is contained.

`run` starts `python -m exporter.child` and follows its progress; `main` is the other side. Our own
warnings are passed on; what else the step prints goes to a log. A step runs compilers and native
code, so it gets no key of its owner's.
"""

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
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import IO, Any

from exporter import errors, machine
from exporter.artifact import write_atomic
from exporter.errors import BuildError, ExporterError, MachineError, ResourceError, exhausted
from exporter.progress import Progress

_log = logging.getLogger(__name__)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.I)
# What is built must not depend on switches that nothing of it tells.
_TUNING = re.compile(r"^(TORCHINDUCTOR|TORCH_COMPILE|TORCHDYNAMO|AOT_INDUCTOR)_")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run(
    step: str,
    request: dict[str, Any],
    progress: Progress,
    *,
    what: str,
    threads: int | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Call `step` ("module:function", given request and progress) in a fresh process.

    Gives the step's answer with `seconds` and `peak_rss_bytes`. Its own errors come back as what
    they were; an illegal instruction becomes a MachineError, a kill a ResourceError, any other
    crash a BuildError, told with `what` and the last progress.
    """
    with TemporaryDirectory(prefix="exporter-") as scratch:
        asked, answer, log = (Path(scratch, name) for name in ("request", "answer", "log"))
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "exporter.child", step, str(asked), str(answer)]
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**child_environment(threads), **environment},
                start_new_session=True,  # a group of its own, to end compilers with it
            ) as process,
        ):
            try:
                last = _follow(process.stdout, progress)
                code = process.wait()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        text = log.read_text(encoding="utf-8", errors="replace")
        _log.debug("%s wrote:\n%s", step, text)
        if code:
            raise _death(code, answer, f"{what}: {last}", text)
        result: dict[str, Any] = json.loads(answer.read_bytes())
        return result


def child_environment(threads: int | None = None) -> dict[str, str]:
    """This process's environment without secrets and tuning, offline, with threads if given."""
    dropped = _SECRET, _TUNING
    kept = {n: v for n, v in os.environ.items() if not any(d.search(n) for d in dropped)}
    root = str(Path(__file__).resolve().parent.parent)
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


def _follow(stream: IO[bytes] | None, progress: Progress) -> str:
    """Pass the child's progress and warnings on; give the last thing it was doing."""
    last = "starting"
    for line in stream or ():
        try:
            told = json.loads(line)
        except ValueError:  # a line cut off by the child's death
            continue
        if isinstance(told, str):
            _log.warning("%s", told)
            continue
        last, done = told
        progress(last, done)
    return last


def _death(code: int, answer: Path, where: str, log: str) -> Exception:
    """The error behind an exit code: told by the child, or guessed from the signal."""
    if answer.exists():
        told = json.loads(answer.read_bytes())
        kind: type[ExporterError] = getattr(errors, told["error"])
        return kind(told["message"])
    if code == -signal.SIGILL:
        msg = f"{where}: illegal instruction. It was compiled for a CPU with more features."
        return MachineError(msg)
    if code == -signal.SIGKILL:
        msg = f"{where}: killed from outside, most likely for want of memory.\nFree some memory."
        return ResourceError(msg)
    if code < 0:
        return BuildError(f"{where}: crashed with {signal.Signals(-code).name}. Build it again.")
    lines = log.strip().splitlines() or [f"exit code {code}"]
    return RuntimeError(f"{where}: {lines[-1][:300]}")


def main(step: str, request: str, answer: str) -> int:
    """Run one step here; write its result, or the error that a user can mend, to `answer`."""
    _die_with_parent()
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
    except Exception as caught:
        error = _mendable(caught)
        told = {"error": type(error).__name__, "message": str(error)}
        write_atomic(Path(answer), json.dumps(told).encode())
        return error.exit_code
    figures = {
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss_bytes": machine.peak_rss_bytes(),
    }
    write_atomic(Path(answer), json.dumps({**figures, **result}).encode())
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


def _die_with_parent() -> None:
    """Leave with a parent that is killed, instead of writing into a folder that is no more its."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _mendable(error: Exception) -> ExporterError:
    """An error that a user can mend; any other goes on as the bug it is."""
    if isinstance(error, ExporterError):
        return error
    if exhausted(error):
        return ResourceError(f"out of disk or memory: {str(error) or 'memory'}")
    raise error


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
