"""onnxruntime's CUDA provider: its options, and why it may be missing.

onnxruntime itself goes on with the CPU where the provider cannot be loaded, many times slower:
here that is an error.
"""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from exporter.errors import MachineError

PROVIDER = "CUDAExecutionProvider"
_LIBRARY = "libonnxruntime_providers_cuda.so"
_CUDNN = "libcudnn.so.9"  # MultiHeadAttention of release 1.31 asks for it, whatever computes
_WHEEL = "onnxruntime-gpu"
# https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
_OPTIONS: Mapping[str, str] = {
    "device_id": "0",  # the first card that CUDA_VISIBLE_DEVICES leaves
    "arena_extend_strategy": "kSameAsRequested",  # else memory doubles at each step
    # SkipLayerNormalization then sums in float32: in float16 the squares overflow.
    "enable_skip_layer_norm_strict_mode": "1",
    "use_tf32": "0",  # logits are products in float32
}


def provider(*, captured: bool) -> tuple[str, dict[str, str]]:
    """Return the provider with its options, as a session takes it.

    Args:
        captured: Whether calls with a `gpu_graph_id` are captured as CUDA graphs. Such a session
            has fixed shapes and addresses for each id, and runs uncaptured with the id -1.
    """
    return PROVIDER, {**_OPTIONS, "enable_cuda_graph": "1" if captured else "0"}


@cache
def require_provider() -> None:
    """Load what the provider needs.

    Raises:
        MachineError: It is not there, or a library that it needs is not.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        msg = (
            f"onnxruntime {onnxruntime.__version__} here is without CUDA: this artifact needs "
            f"{_WHEEL}.\n{_installing(onnxruntime.__version__, 'onnxruntime')}"
        )
        raise MachineError(msg)
    with redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls(msvc=False)
    library = Path(onnxruntime.__file__).parent / "capi" / _LIBRARY
    try:
        for needed in (str(library), _CUDNN):
            ctypes.CDLL(needed, mode=os.RTLD_LAZY)
    except OSError as error:
        msg = (
            f"onnxruntime {onnxruntime.__version__} cannot load its CUDA provider: {_short(error)}."
            f"\n{_installing(onnxruntime.__version__)}"
        )
        raise MachineError(msg) from error


def refused(session: Any) -> MachineError | None:
    """Return the error of a session that onnxruntime opened on another provider; else None."""
    first = next(iter(session.get_providers()), "none")
    if first == PROVIDER:
        return None
    msg = (
        f"onnxruntime opened the artifact on {first} instead of {PROVIDER}.\n"
        "See whether `nvidia-smi` works, and what onnxruntime says with "
        "ORT_LOGGING_LEVEL=VERBOSE; then `exporter machine`."
    )
    return MachineError(msg)


def failed(error: Exception) -> MachineError | None:
    """Return the error of a machine on which CUDA itself fails; None if it is about a graph."""
    text = str(error)
    if not any(word in text for word in ("CUDA failure", "CUBLAS failure", "CUDA error")):
        return None
    reason = next(line for line in text.splitlines() if "failure" in line or "error" in line)
    return MachineError(f"CUDA does not work here: {reason.strip()[-300:]}")


def _short(error: OSError) -> str:
    """Return what a loader says, without the path of the library that it was loading."""
    return str(error).rpartition(f"{_LIBRARY}: ")[2][:200]


def _installing(release: str, installed: str | None = None) -> str:
    own = _installed_version() or release
    first = f"pip uninstall -y {installed} && " if installed else ""
    return (
        f"Install it with the libraries of CUDA: {first}pip install '{_WHEEL}[cuda,cudnn]=={own}'"
    )


def _installed_version() -> str | None:
    try:
        return version(_WHEEL)
    except PackageNotFoundError:
        return None
