"""What every target offers to the rest, and the job that a build hands to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel
from torch import nn

from exporter.artifact.manifest import BuildResult, Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.quantization.plan import QuantizationPlan
from exporter.system.progress import Progress

OptionsT = TypeVar("OptionsT", bound=BaseModel)


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """Everything is resolved; `folder` is empty and is written into.

    `fresh` makes anew what an earlier build has left in the cache.
    """

    checkpoint: Checkpoint
    family: Family
    options: OptionsT
    plan: QuantizationPlan
    folder: Path
    progress: Progress
    fresh: bool = False

    @property
    def size(self) -> str:
        """The model's size, by which people know it."""
        return f"{self.checkpoint.parameters / 1e6:.0f} M parameters"


class Target(Protocol):
    """What a target's module offers; `SCHEMES` are those that it can store and execute."""

    SCHEMES: frozenset[str]

    @property
    def Options(self) -> type[BaseModel]:
        """The target's options in a recipe, as a frozen pydantic model."""
        ...

    def check(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
    ) -> None:
        """Refuse, before anything is written, options that fit neither model nor machine."""
        ...

    def layout(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
    ) -> dict[str, int]:
        """Foretell the target's own files and their bytes, from shapes and types alone.

        `model` is the family's skeleton, which `check` and other targets use too: not to be
        changed. Nothing is read or traced, so the size of code and graphs is about right only.
        """
        ...

    def num_trials(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
    ) -> int:
        """How many graphs a build compiles only to time them, where options leave it a choice."""
        ...

    def build(self, job: Job[Any]) -> BuildResult:
        """Write the target's own files into the job's folder.

        Tell what loading will need, and what the options left to be chosen.
        """
        ...

    def load(self, folder: Path, manifest: Manifest, family: Family, threads: int) -> Any:
        """Bring the files back to life as a model that the family transcribes with."""
        ...
