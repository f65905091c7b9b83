"""Validate artifacts against their original: words, speed, memory and integrity.

`validate` is all that the command line uses. It is imported late, so that the fresh process of a
measurement does not carry the parent's libraries in its memory.
"""

from typing import TYPE_CHECKING, Any

from exporter.errors import require_extra

if TYPE_CHECKING:
    from exporter.validate.pipeline import validate

__all__ = ["validate"]

require_extra("validate")


def __getattr__(name: str) -> Any:
    if name != "validate":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from exporter.validate.pipeline import validate

    return validate
