"""How long work tells of itself, whoever shows it."""

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Called with what is being done, and how far it is in [0, 1] where that is known."""
