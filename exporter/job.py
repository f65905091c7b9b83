"""One target to build, as `build.py` hands it to a target's module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from exporter.checkpoint import Checkpoint
from exporter.families import Family
from exporter.progress import Progress

OptionsT = TypeVar("OptionsT", bound=BaseModel)


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """Everything is resolved; `folder` is empty and is written into.

    `fresh` makes anew what an earlier build has left in the cache.
    """

    checkpoint: Checkpoint
    family: Family
    options: OptionsT
    folder: Path
    progress: Progress
    fresh: bool = False

    @property
    def size(self) -> str:
        """The model's size, by which people know it."""
        return f"{self.checkpoint.parameters / 1e6:.0f} M parameters"
