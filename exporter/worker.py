"""One heavy step in a process of its own: its memory is given back, its crash is contained.

`run` starts `python -m exporter.worker` and reads its progress; `main` is the other side. The child
gets no Hub token: it runs compilers and native code.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from exporter import errors
from exporter.errors import BuildError, ExporterError, ResourceError, exhausted
from exporter.progress import Progress

_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_TOLD_STEPS = 200


def run(step: str, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run a step of `steps` in a child process and return its answer.

    The child's own errors come back as what they were; a crash becomes a BuildError, a kill for
    want of memory a ResourceError.
    """
    with tempfile.TemporaryDirectory(prefix="exporter-") as scratch:
        answer, log = Path(scratch, "answer.json"), Path(scratch, "log")
        command = [sys.executable, "-m", "exporter.worker", step, json.dumps(request), str(answer)]
        with (
            log.open("w") as output,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=output, text=True, env=_environment()
            ) as child,
        ):
            try:
                for line in child.stdout or ():
                    _tell(line, progress)
                status = child.wait()
            finally:
                child.kill()
        if status == 0:
            result: dict[str, Any] = json.loads(answer.read_text())
            return result
        raise _failure(step, status, answer, log.read_text(errors="replace"))


def _tell(line: str, progress: Progress) -> None:
    """Pass a progress line on; native libraries may print other things."""
    try:
        what, done = json.loads(line)
    except ValueError:
        return
    progress(what, done)


def _failure(step: str, status: int, answer: Path, log: str) -> Exception:
    """The exception that a failed child stands for."""
    if answer.exists():
        told = json.loads(answer.read_text())
        kind: type[ExporterError] = getattr(errors, told["error"])
        return kind(told["message"])
    if status == -signal.SIGKILL:
        return ResourceError(f"{step} was killed, most likely for want of memory: free some")
    if status < 0:
        name = signal.Signals(-status).name
        return BuildError(f"{step} crashed in native code ({name}).\n{_last_line(log)}")
    return RuntimeError(f"{step} failed:\n{log}")


def _last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "It printed nothing."


def _environment() -> dict[str, str]:
    secret = [name for name in os.environ if any(word in name.upper() for word in _SECRETS)]
    return {name: value for name, value in os.environ.items() if name not in secret}


def main(step: str, request: str, answer: str) -> int:
    """Run one step here; write its result, or the error a user can mend, to `answer`."""
    from exporter.steps import STEPS

    started = time.monotonic()
    told: list[tuple[str, int]] = []

    def progress(what: str, done: float | None) -> None:
        mark = (what, int((done or 0) * _TOLD_STEPS))
        if told[-1:] != [mark]:
            told[:] = [mark]
            sys.stdout.write(json.dumps([what, done]) + "\n")
            sys.stdout.flush()

    try:
        result = STEPS[step](json.loads(request), progress)
    except Exception as caught:
        error = _mendable(caught)
        report = {"error": type(error).__name__, "message": str(error)}
        Path(answer).write_text(json.dumps(report))
        return error.exit_code
    result["seconds"] = round(time.monotonic() - started, 3)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(answer).write_text(json.dumps(result))
    return 0


def _mendable(error: Exception) -> ExporterError:
    """An error that a user can mend; any other goes on as the bug it is."""
    if isinstance(error, ExporterError):
        return error
    if exhausted(error):
        return ResourceError(f"out of disk or memory: {str(error) or 'memory'}")
    raise error


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
