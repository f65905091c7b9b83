"""Turn a speech checkpoint into artifacts, and prove that each is as good as the original.

Nothing heavy is imported here, so that the command line answers at once; the Python API is in
`exporter.runtime.load`.
"""

import os

__version__ = "0.1.0"

# onnxruntime tells its makers of every session, unless it finds this when it starts.
# Source: https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
