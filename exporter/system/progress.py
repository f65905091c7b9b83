"""Progress of long work, as a callback."""

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Called with the current step, and the fraction done in [0, 1], or None if it is unknown."""


def silent(_what: str, _done: float | None) -> None:
    """Ignore all progress."""


def shown_bytes(count: float) -> str:
    """Return a number of bytes as text with a decimal unit, like 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
