"""A finding of the doctor: its level, file, fault and fix."""

from dataclasses import dataclass
from typing import Literal

from exporter.system.text import harmless

Level = Literal["problem", "warning", "note"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "note")
_MAX_TEXT = 600


@dataclass(frozen=True)
class Finding:
    """One fault of a folder.

    Attributes:
        level: "problem" (breaks loading or falsifies text), "warning" (costs speed, bytes or
            safety) or "note" (a feature that will not work).
        where: The file, relative to the folder.
        what: The fault.
        fix: What to do about it.
    """

    level: Level
    where: str
    what: str
    fix: str


def printable(text: str) -> str:
    """Return `text` harmless and cut to 600 characters."""
    return harmless(text[:_MAX_TEXT])
