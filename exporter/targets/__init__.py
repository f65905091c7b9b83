"""The kinds of artifact: one module each, and this dict.

A target knows how a checkpoint becomes files and how those files come back to life. To add one: one
file here, one line in `TARGETS`.
"""

from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel
from torch import nn

from exporter.artifact import Manifest, Outcome
from exporter.checkpoint import Checkpoint
from exporter.families import Family
from exporter.job import Job
from exporter.targets import aoti, onnx_int8, torch_int8


class Target(Protocol):
    """What a target's module offers."""

    @property
    def Options(self) -> type[BaseModel]:
        """The target's options in a recipe, as a frozen pydantic model."""
        ...

    def check(self, options: Any, model: nn.Module, checkpoint: Checkpoint, family: Family) -> None:
        """Refuse, before anything is written, options that fit neither model nor machine."""
        ...

    def layout(
        self, options: Any, model: nn.Module, checkpoint: Checkpoint, family: Family
    ) -> dict[str, int]:
        """Foretell the target's own files and their bytes, from shapes and types alone.

        `model` is the family's skeleton, which `check` and other targets use too: not to be
        changed. Nothing is read or traced, so the size of code and graphs is about right only.
        """
        ...

    def trials(self, options: Any, model: nn.Module, checkpoint: Checkpoint, family: Family) -> int:
        """How many graphs a build compiles only to time them, where options leave it a choice."""
        ...

    def build(self, job: Job[Any]) -> Outcome:
        """Write the target's own files into the job's folder.

        Tell what loading will need, and what the options left to be chosen.
        """
        ...

    def load(self, folder: Path, manifest: Manifest, family: Family, threads: int) -> Any:
        """Bring the files back to life as a model that the family transcribes with."""
        ...


TARGETS: dict[str, Target] = {"onnx-int8": onnx_int8, "torch-int8": torch_int8, "aoti": aoti}
