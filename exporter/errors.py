"""The errors that a user can cause or fix, each with its exit code.

This module imports no other of the product, so that every package can raise these errors; only
`exporter.cli` turns them into text. A message has one to three lines: what is wrong, where, and
what to do.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType

from exporter import DISTRIBUTION

# The meanings of the exit codes; the help, the documents and tests read them from here.
EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "done",
        1: "a bug of exporter",
        2: "wrong usage, or a mistake in the recipe",
        3: "a checkpoint or data that cannot be used, or a build that failed",
        4: "the gate failed, or could not decide",
        5: "bytes are not the sealed ones, or code is of unknown origin",
        6: "this machine lacks what is needed",
        7: "the Hub, or the network",
        8: "disk or memory ran out, or would",
        9: "busy: another build writes to the same place",
        130: "interrupted (Ctrl-C)",
        143: "terminated (SIGTERM)",
    }
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG, errno.EIO}
_FULL |= {errno.EMFILE, errno.ENFILE}
# Messages of libraries that raise no OSError for it: torch, oneDNN, onnxruntime, C++ and Python,
# whose `tempfile` takes a full disk for a missing folder.
_FULL_TEXTS = (
    *map(os.strerror, sorted(_FULL)),
    *("can't allocate memory", "not enough memory", "could not create a primitive"),
    "CUDA out of memory",
    *("Failed to allocate memory", "bad allocation", "bad_alloc", "write callback failed"),
    # Of a card: torch's allocator, CUDA's runtime under torch and under onnxruntime, cuBLAS.
    *("CUDA out of memory", "CUDA error: out of memory", "CUDA failure 2: out of memory"),
    "CUBLAS_STATUS_ALLOC_FAILED",
    *("can't start new thread", "pthread_create failed", "No usable temporary directory"),
)
# The top-level modules of packages that are not in the base install, each with the smallest extra
# that has it; pyproject.toml defines the extras.
_EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "onnxruntime",
        **dict.fromkeys(("huggingface_hub", "jinja2", "markupsafe"), "hub"),
        **dict.fromkeys(("pydantic", "pydantic_core", "ruamel", "urllib3"), "hub"),
        **dict.fromkeys(("onnx", "onnx_ir", "onnxscript", "safetensors"), "build"),
        **dict.fromkeys(("torch", "transformers"), "build"),
        **dict.fromkeys(("jiwer", "rapidfuzz"), "validate"),
        **dict.fromkeys(("cryptography", "model_signing"), "sign"),
        "pyarrow": "datasets",
        "ray": "ray",
        "tokenizers": "tokenizers",
    }
)
_WITHIN = {
    "build": ("hub", "tokenizers"),
    "sign": ("hub",),
    "validate": ("build", "hub", "tokenizers"),
}


class ExporterError(Exception):
    """Base of all expected errors; any other exception is a bug.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code = 1


class RecipeError(ExporterError):
    """Wrong usage of the command line, or a wrong recipe."""

    exit_code = 2


class CheckpointError(ExporterError):
    """A checkpoint that is missing, damaged, incomplete or of an unknown family."""

    exit_code = 3


class DataError(ExporterError):
    """Audio or transcripts that cannot be used."""

    exit_code = 3


class BuildError(ExporterError):
    """A build that failed, or an artifact that does not transcribe."""

    exit_code = 3


class GateError(ExporterError):
    """An artifact that failed its gate, or on which the gate could not decide."""

    exit_code = 4


class IntegrityError(ExporterError):
    """Bytes that differ from the manifest, or a report on another artifact."""

    exit_code = 5


class TrustError(ExporterError):
    """Native code that was neither built here nor signed by a trusted key."""

    exit_code = 5


class MachineError(ExporterError):
    """A CPU feature, a library or a tool that this machine lacks."""

    exit_code = 6


class HubError(ExporterError):
    """A refusal or failure of the Hub or the network."""

    exit_code = 7


class ResourceError(ExporterError):
    """Disk or memory that ran out, would run out, or failed."""

    exit_code = 8


class BusyError(ExporterError):
    """Another build at work on the same artifact."""

    exit_code = 9


def exhausted(error: BaseException | None) -> bool:
    """Return True if disk or memory ran out or failed, also as the cause of a library's error."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _FULL:
        return True
    return any(text in str(error) for text in _FULL_TEXTS) or exhausted(error.__cause__)


def exhaustion(error: BaseException) -> str:
    """Return the message for an error that is `exhausted`."""
    what = "the disk failed" if os.strerror(errno.EIO) in str(error) else "out of disk or memory"
    reason = (str(error).strip().splitlines() or ["memory"])[0]
    return f"{what}: {reason[:500]}"


def extras_for(packages: Iterable[str], device: str = "cpu") -> list[str]:
    """Return the extras that bring packages of an artifact's needs, without duplicates.

    A card needs onnxruntime's wheel for it, and the libraries of CUDA.
    """
    found = dict.fromkeys(_EXTRAS[name] for name in packages if name in _EXTRAS)
    on_card = {"onnxruntime": "onnxruntime-cuda"} if device == "cuda" else {}
    return [on_card.get(name, name) for name in found]


def missing_package(module: str, extra: str | None = None, *, device: str = "cpu") -> MachineError:
    """Return the error for a package that is not installed.

    Args:
        module: Its top-level module.
        extra: The extra that the caller needs, which is named if it has the package.
        device: The kind of device that the package is to compute on.
    """
    (smallest,) = extras_for([module], device)
    named = extra if extra and smallest in (extra, *_WITHIN.get(extra, ())) else smallest
    msg = f"{module} is not installed: pip install '{DISTRIBUTION}[{named}]'"
    if named == "onnxruntime":
        msg += " (or [onnxruntime-gpu], never both)"
    return MachineError(msg)


def require_extra(extra: str) -> None:
    """Raise MachineError if a package of an extra is not installed.

    The packages of ours that cannot be imported without an extra call it when they are imported, so
    that a Python program is told the extra as a command is.
    """
    for module, smallest in _EXTRAS.items():
        if smallest in (extra, *_WITHIN.get(extra, ())) and find_spec(module) is None:
            raise missing_package(module, extra)


@contextmanager
def needing(extra: str | None = None) -> Iterator[None]:
    """Raise MachineError for an import in the block, or in the function, of an absent package.

    A module of ours that is missing stays a bug, and so does a package that is there and fails.

    Args:
        extra: The extra that the block needs; by default the smallest one that has the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS or find_spec(module) is not None:
            raise
        raise missing_package(module, extra) from error
