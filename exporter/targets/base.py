"""What every target offers to the rest, and the job that a build hands to it.

What a target tells without torch is in `exporter.targets.facts`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from exporter.artifact.manifest import BuildResult, Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.quantization.plan import QuantizationPlan
from exporter.system.accelerators import Device
from exporter.system.progress import Progress
from exporter.targets.options import TargetOptions

OptionsT = TypeVar("OptionsT", bound=TargetOptions)


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """One artifact to build, with everything resolved.

    Attributes:
        checkpoint: Where the weights are read from, and the model's config.
        family: The family of the checkpoint's model.
        options: The target's options, as the recipe has them.
        folder: An empty folder, into which the target's own files are written.
        progress: Called with what is being done, and the share of it that is done, 0 to 1.
        fresh: Whether to make anew what an earlier build has left in the cache.
    """

    checkpoint: Checkpoint
    family: Family
    options: OptionsT
    plan: QuantizationPlan
    folder: Path
    progress: Progress
    fresh: bool = False

    @property
    def device(self) -> Device:
        """The kind of device that the artifact is built for."""
        return self.options.device

    @property
    def size(self) -> str:
        """The model's size, by which people know it."""
        return f"{self.checkpoint.parameters / 1e6:.0f} M parameters"


class Target(Protocol):
    """What a target's module offers; `SCHEMES` are those that it can store and execute.

    In all of it, `model` is the family's skeleton of the checkpoint, on the `meta` device and
    shared with other targets: it is not to be changed.
    """

    SCHEMES: frozenset[str]

    @property
    def Options(self) -> type[TargetOptions]:
        """The target's options in a recipe.

        Making them raises MachineError where a default follows the machine, which has none.
        """
        ...

    def check(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
    ) -> None:
        """Refuse, before anything is written, options that fit neither model nor machine.

        Raises:
            RecipeError: where an option names what the model or the checkpoint does not have.
            MachineError: where this machine lacks what the build needs.
        """
        ...

    def layout(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
    ) -> dict[str, int]:
        """Estimate the target's own files from shapes and types alone; nothing is read or traced.

        Returns:
            The size in bytes of each file, by its POSIX path inside the artifact: of weights exact
            or nearly, of code and graphs about right.
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
        """Count the graphs that a build compiles only to time them, where options leave a choice.

        Returns:
            The count; 0 where the options leave nothing open.
        """
        ...

    def build(self, job: Job[Any]) -> BuildResult:
        """Write the target's own files into the job's folder.

        Returns:
            What loading the artifact requires, its device included, and the options with what the
            build chose.

        Raises:
            BuildError: where a compiler or an exporter fails.
            CheckpointError: where weights do not fit the types that the options ask for.
        """
        ...

    def load(
        self,
        folder: Path,
        manifest: Manifest,
        family: Family,
        threads: int,
        device: Device = ...,
    ) -> Any:
        """Bring an artifact's files back to life, on one device.

        Args:
            folder: The artifact, whose bytes are verified and whose code may run.
            manifest: Its manifest.
            family: The family that it names.
            threads: How many threads of the CPU one call may use.
            device: A kind of device that this machine has.

        Returns:
            A model that the family's `transcribe` takes, its inputs on `device`.

        Raises:
            IntegrityError: where the files are not what this target writes.
            MachineError: where this machine, or what is installed on it, cannot run them.
        """
        ...
