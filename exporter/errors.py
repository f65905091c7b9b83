"""Every error that a user can cause or mend, one class per exit code.

Kept apart, without imports of ours, so that any floor can raise one and only `cli.py` turns them
into text. A message has one to three lines: what is wrong, where, and what to do next.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType

# What the exit codes of the command line mean; help, documents and tests take it from here.
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
# Of libraries that say it in their own words; the last is oneDNN's.
_FULL_TEXTS = (
    *map(os.strerror, sorted(_FULL)),
    *("can't allocate memory", "not enough memory", "could not create a primitive"),
)


class ExporterError(Exception):
    """Base of all expected errors; anything else that reaches the command line is a bug."""

    exit_code = 1


class RecipeError(ExporterError):
    """The command line or the recipe is wrong."""

    exit_code = 2


class CheckpointError(ExporterError):
    """The checkpoint cannot be used: missing, damaged, incomplete or of an unknown family."""

    exit_code = 3


class DataError(ExporterError):
    """The audio or its transcripts cannot be used."""

    exit_code = 3


class BuildError(ExporterError):
    """A target could not be built, or what was built does not speak."""

    exit_code = 3


class GateError(ExporterError):
    """The artifact did not pass its gate, or the gate could not decide."""

    exit_code = 4


class IntegrityError(ExporterError):
    """Bytes are not what the manifest promises."""

    exit_code = 5


class TrustError(ExporterError):
    """Code of unknown origin would have to run."""

    exit_code = 5


class MachineError(ExporterError):
    """This machine lacks a CPU feature, a library or a tool."""

    exit_code = 6


class HubError(ExporterError):
    """The Hub or the network said no."""

    exit_code = 7


class ResourceError(ExporterError):
    """Disk or memory ran out, also when foreseen, or failed."""

    exit_code = 8


class BusyError(ExporterError):
    """Another build holds the place."""

    exit_code = 9


def exhausted(error: BaseException | None) -> bool:
    """Whether disk or memory ran out or failed, at the root of whatever a library made of it."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _FULL:
        return True
    return any(text in str(error) for text in _FULL_TEXTS) or exhausted(error.__cause__)


def exhaustion(error: BaseException) -> str:
    """What to say of an error that is `exhausted`."""
    what = "the disk failed" if os.strerror(errno.EIO) in str(error) else "out of disk or memory"
    return f"{what}: {str(error) or 'memory'}"


def listed(names: Iterable[str]) -> str:
    """A few of the names in one line, whatever characters somebody put into them."""
    first, *others = sorted(names)
    shown = [name[:80] if name.isprintable() else ascii(name)[:80] for name in (first, *others[:2])]
    return ", ".join(shown) + (" ..." if len(others) > 2 else "")
