"""Progress of long work, as a callback."""

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Called with what is being done, and how far it is in [0, 1] where that is known."""


def silent(_what: str, _done: float | None) -> None:
    """Tell nobody."""


def shown_bytes(count: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
