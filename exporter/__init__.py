"""Turn a speech checkpoint into artifacts, and check that each is as good as the original.

From Python, an artifact that was built or published transcribes in three lines:

    import exporter

    recogniser = exporter.load("artifacts/whisper-demo-int8/onnx-int8")
    print(recogniser.transcribe("speech.flac"))

Importing this package is fast: the modules of its names are imported at their first use.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.recognition.load import load, load_original
    from exporter.recognition.recogniser import Recogniser
    from exporter.runtime.transcript import Segment, Transcript

__version__ = "0.1.0"
# The name to install by: `exporter` on the package index is somebody else's.
DISTRIBUTION = "asr-exporter"

__all__ = ["Recogniser", "Segment", "Transcript", "load", "load_original"]

_MODULES = {
    "Recogniser": "exporter.recognition.recogniser",
    "Segment": "exporter.runtime.transcript",
    "Transcript": "exporter.runtime.transcript",
    "load": "exporter.recognition.load",
    "load_original": "exporter.recognition.load",
}

# onnxruntime sends telemetry about every session unless this is set when it starts.
# Source: https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


if not TYPE_CHECKING:  # a type checker would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
