"""Runs the command line in forks of one process that has imported everything: `faults` uses it.

A run costs what its work costs, and not the seconds of imports, so that it can be had hundreds of
times. The steps of a build are forks too: they run the same `child.main`, in a session of their
own, behind the same pipe. What may start threads is never called in the server itself.
"""

import errno
import io
import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from exporter import cli
from exporter.system import hardware, worker

_LOADED = (
    *(
        "exporter.build.pipeline",
        "exporter.build.smoke_test",
        "exporter.build.worker_steps",
        "exporter.validate.pipeline",
        "exporter.hub.push",
        "exporter.recognition.reference",
    ),
    *("onnxruntime", "torch.export", "torch._inductor.compile_fx"),
    *("transformers.models.whisper.modeling_whisper", "transformers.pipelines", "onnxscript"),
)
_CHANGES = frozenset(
    f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "truncate")
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Points:
    """Counts a run's file-system events, in all of its processes, and acts at one of them."""

    def __init__(self, base: str, at: int | None, action: str) -> None:
        self._base, self._at, self._action = base, at, action
        self._count = mmap.mmap(-1, 8)
        self._main = os.getpid()
        self._names = os.open(f"{base}/events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES and event != "open":
            return
        if not isinstance(arguments[0], (str, bytes, Path)):
            return
        path = str(Path(os.fsdecode(arguments[0])).absolute())
        # Folders and files are opened by descriptor, for reading, to be synced or emptied.
        reading = event == "open" and not arguments[2] & _WRITING
        if (reading and arguments[1] is not None) or not path.startswith(self._base):
            return
        named = "read" if reading else event
        count = int.from_bytes(self._count[:8], "little") + 1
        self._count[:8] = count.to_bytes(8, "little")
        os.write(self._names, f"{named} {path.removeprefix(self._base)}\n".encode())
        if count == self._at:
            self._act()

    def _act(self) -> None:
        if self._action == "kill all":
            os.kill(self._main, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._action.startswith("SIG"):
            os.kill(self._main, signal.Signals[self._action])
        else:
            code = getattr(errno, self._action)
            raise OSError(code, os.strerror(code))


class Fork:
    """What `child.run` uses of `subprocess.Popen`, with a fork that runs `child.main`."""

    def __init__(self, command: list[str], **how: Any) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            _become(lambda: _step(command, writing, how))
        os.close(writing)
        self.stdout: IO[bytes] = os.fdopen(reading, "rb")
        self._code: int | None = None

    def wait(self, _timeout: float | None = None) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()


def _step(command: list[str], pipe: int, how: dict[str, Any]) -> int:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    logging.getLogger("exporter").handlers.clear()
    os.dup2(pipe, 1)
    os.dup2(how["stderr"].fileno(), 2)
    _placed(how["env"])
    return worker.main(*command[command.index("exporter.system.worker") + 1 :])


def _become(work: Callable[[], int]) -> NoReturn:
    """Be a process that does this and nothing else."""
    code = 1
    try:
        code = work()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _placed(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None


def _run(request: dict[str, Any], copy: int) -> int:
    """One run, in this process, which is a fork made for it."""
    base = request["place"]
    os.chdir(base)
    os.setsid()
    said = os.open(f"{base}/said{copy}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0, closefd=False), write_through=True)
    _placed({**os.environ, **request["environment"]})
    known = {"DEVNULL": subprocess.DEVNULL, "PIPE": subprocess.PIPE}
    worker.subprocess = SimpleNamespace(**known, Popen=Fork)  # type: ignore[assignment]
    if gate := request["gate"]:  # until a tracer listens, which counts for itself
        Path(gate).read_bytes()
    else:
        Points(base, request["at"], request["action"])
    return cli.main([each.replace("COPY", str(copy)) for each in request["arguments"]])


def serve() -> None:
    """Answer each line of JSON on standard input: the forks' numbers, then how they ended."""
    for name in _LOADED:
        import_module(name)
    hardware.describe()
    hardware.installed_versions()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        forks = [_forked(request, copy) for copy in range(request["copies"])]
        print(json.dumps(forks), file=answers, flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in forks]
        print(json.dumps(codes), file=answers, flush=True)


def _forked(request: dict[str, Any], copy: int) -> int:
    pid = os.fork()
    if not pid:
        _become(lambda: _run(request, copy))
    return pid


if __name__ == "__main__":
    serve()
