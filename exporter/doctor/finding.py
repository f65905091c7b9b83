"""What the doctor finds: how bad, where, what is wrong, and how to mend it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "warning", "note"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "note")
_MAX_TEXT = 600


@dataclass(frozen=True)
class Finding:
    """One fault: a problem breaks or falsifies what somebody does, a warning costs them."""

    level: Level
    where: str
    what: str
    mend: str


def printable(text: str) -> str:
    """One line that a terminal shows as it is, whatever the folder's author put into it."""
    shown = (each if each.isprintable() else ascii(each)[1:-1] for each in text[:_MAX_TEXT])
    return "".join(shown)
