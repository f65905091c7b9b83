"""`exporter` with the steps of a command in forks: each costs what its work costs, not imports.

What a step would import in a fresh process is imported once. Nothing here may start a thread
before the forks do, so `OMP_NUM_THREADS` must be 1.
"""

import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

from exporter import cli
from exporter.system import worker
from tests.support.forks import Fork

_LOADED = (
    *("exporter.validate.pipeline", "exporter.validate.measure.latency"),
    *("exporter.runtime.load", "exporter.families.whisper.family", "exporter.targets.aoti.target"),
    *("exporter.targets.onnx.target", "exporter.targets.pytorch.target", "onnxruntime"),
    *("torch.export", "transformers.models.whisper.modeling_whisper", "exporter.bench.timing"),
)


def main() -> int:
    """Run a command line of `exporter`."""
    assert os.environ.get("OMP_NUM_THREADS") == "1"
    for name in _LOADED:
        import_module(name)
    known = {"DEVNULL": subprocess.DEVNULL, "PIPE": subprocess.PIPE}
    worker.subprocess = SimpleNamespace(**known, Popen=Fork)  # type: ignore[assignment]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
