"""`exporter` with the steps of a command in forks: each costs what its work costs, not imports.

What a step would import in a fresh process is imported once. Nothing here may start a thread
before the forks do, so `OMP_NUM_THREADS` is 1.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace

from tests.damage.grounds import ROOT, own_places

_LOADED = {
    "validate": (
        *("exporter.validate.pipeline", "exporter.validate.measure.latency"),
        *("exporter.recognition.load", "exporter.families.whisper.family", "exporter.bench.timing"),
        *("exporter.targets.aoti.target", "exporter.targets.onnx.target"),
        *("exporter.targets.pytorch.target", "onnxruntime", "torch.export"),
        "transformers.models.whisper.modeling_whisper",
    ),
    "build": (
        *("exporter.build.pipeline", "exporter.build.worker_steps", "exporter.recognition.load"),
        *("onnxruntime", "onnxscript", "torch.export"),
        *("torch._inductor.compile_fx", "transformers.models.whisper.modeling_whisper"),
    ),
}


def run(arguments: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """Run a command line in the project's folder, with caches in the work folder.

    Args:
        arguments: Those of `exporter`.
        limit_s: The most seconds that it may take.

    Returns:
        Its exit code, or None if it hung; and what it wrote to standard error.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.damage.command", *arguments],
        cwd=ROOT,
        env={**os.environ, **own_places(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # its forks end with it
        _, said = process.communicate()
        return None, said
    return process.returncode, said


def error_in(said: str) -> str:
    """Return the error among a command's messages, without progress and warnings before it."""
    lines = said.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error")]
    return " ".join(line.strip() for line in lines[starts[0] if starts else 0 :])


def main() -> int:
    """Run a command line of `exporter`, forked."""
    from exporter import cli
    from exporter.system import worker
    from tests.support.forks import Fork

    for name in _LOADED[sys.argv[1]]:
        import_module(name)
    known = {"DEVNULL": subprocess.DEVNULL, "PIPE": subprocess.PIPE}
    worker.subprocess = SimpleNamespace(**known, Popen=Fork)  # type: ignore[assignment]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
