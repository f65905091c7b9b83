"""The parent's side of a measurement: start the fresh process, follow it, explain its death.

Kept apart from `measure.py` so that the measured process imports nothing that it does not need.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from exporter import errors
from exporter.errors import BuildError, ExporterError, MachineError, ResourceError
from exporter.progress import Progress
from validate.measure import Measurement, Request

_log = logging.getLogger(__name__)
# The measured process runs native code out of an artifact: no key of its owner's goes there.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.I)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure_fresh(request: Request, what: str, progress: Progress) -> Measurement:
    """Run `validate.measure` on the request in a process of its own.

    Raises the error that the process ended with, or the one that its death means: MachineError for
    an illegal instruction, ResourceError for a kill, BuildError for any other crash.
    """
    with TemporaryDirectory(prefix="exporter-measure-") as work:
        asked, result, log = (Path(work) / name for name in ("request.json", "result.json", "log"))
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "validate.measure", str(asked), str(result)]
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(request.threads),
            ) as process,
        ):
            try:
                last = _follow(process.stdout, request, what, progress)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        text = log.read_text(encoding="utf-8", errors="replace")
        _log.debug("%s wrote:\n%s", what, text)
        if code:
            raise _death(code, last, f"{what}{_place(last, request)}", text)
        return Measurement.model_validate_json(result.read_bytes())


def environment(threads: int) -> dict[str, str]:
    """The child's environment: this one without secrets, offline, with fixed threads."""
    kept = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        **dict.fromkeys(_THREADS, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _follow(
    stream: IO[bytes] | None, request: Request, what: str, progress: Progress
) -> dict[str, Any]:
    """Turn the child's lines into progress; give the last one."""
    last: dict[str, Any] = {}
    progress(f"{what}: loading", None)
    for last in _events(stream):
        if "clip" in last:
            done = last["pass"] + last["clip"] / len(request.clips)
            progress(what, done / max(last["passes"], last["pass"] + 1))
    progress(what, 1.0)
    return last


def _events(stream: IO[bytes] | None) -> Iterator[dict[str, Any]]:
    for line in stream or ():
        try:
            event = json.loads(line)
        except ValueError:  # a line cut off by the child's death
            continue
        if isinstance(event, dict):
            yield event


def _place(last: dict[str, Any], request: Request) -> str:
    """How far the process came, for a message."""
    if "clip" in last:
        path = request.clips[last["clip"]]
        return f" at clip {last['clip'] + 1} of {len(request.clips)} ({path.name})"
    return "" if last else " while loading"


def _death(code: int, last: dict[str, Any], where: str, log: str) -> ExporterError:
    """The error behind an exit code: told by the child, or guessed from the signal."""
    told = getattr(errors, str(last.get("error")), None)
    if isinstance(told, type) and issubclass(told, ExporterError):
        error: ExporterError = told(last["message"])
        return error
    if code == -signal.SIGILL:
        msg = f"{where}: illegal instruction. It was compiled for a CPU with more features."
        return MachineError(msg)
    if code == -signal.SIGKILL:
        msg = f"{where}: killed from outside, most likely for want of memory.\nFree some memory."
        return ResourceError(msg)
    if code < 0:
        return BuildError(f"{where}: crashed with {signal.Signals(-code).name}. Build it again.")
    lines = log.strip().splitlines() or [f"exit code {code}"]
    return BuildError(f"{where}: {lines[-1][:300]}\nRun with --debug to see all it wrote.")
