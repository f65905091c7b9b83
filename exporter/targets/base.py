"""The interface of targets, and the job that a build passes to one.

The facts that need no torch are in `exporter.targets.facts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from exporter.artifact.manifest import AutotuneResult, BuildResult, Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.quantization.plan import QuantizationPlan
from exporter.system.accelerators import Device
from exporter.system.progress import Progress
from exporter.targets.options import TargetOptions

OptionsT = TypeVar("OptionsT", bound=TargetOptions)


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """One artifact to build.

    Attributes:
        checkpoint: The checkpoint, with the weights and the model's config.
        family: The family of the checkpoint's model.
        options: The target's options, as the recipe has them.
        folder: An empty folder for the target's files.
        progress: Called with the current activity and the fraction done, 0 to 1.
        fresh: Whether to build graphs again that are in the cache.
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
        """The kind of device to build for."""
        return self.options.device

    @property
    def size(self) -> str:
        """The model's size, for messages."""
        return f"{self.checkpoint.parameters / 1e6:.0f} M parameters"


@dataclass(frozen=True)
class Records:
    """What a build records of itself, besides weights, graphs and code.

    Attributes:
        plan: The plan in the manifest: that of the recipe, but for what the build chose otherwise.
        files: The content of small files that the target writes itself, by POSIX path.
    """

    plan: QuantizationPlan
    files: Mapping[str, bytes] = field(default_factory=dict)


class Target(Protocol):
    """The interface of a target's module.

    Attributes:
        SCHEMES: The schemes that it can store and execute.

    In all methods, `model` is the family's skeleton of the checkpoint, on the `meta` device and
    shared with other targets: it must not be changed.
    """

    SCHEMES: frozenset[str]

    @property
    def Options(self) -> type[TargetOptions]:
        """The target's options in a recipe.

        The constructor raises MachineError if a default depends on the machine and has no value.
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
        """Check, before anything is written, that the options suit the model and the machine.

        Raises:
            RecipeError: An option names something that the model or the checkpoint lacks.
            MachineError: This machine lacks something that the build needs.
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
            The size in bytes of each file, by its POSIX path inside the artifact: for weights exact
            or nearly, for code and graphs approximate.
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
        """Return how many graphs a build compiles only to time them.

        Returns:
            The count; 0 where the options leave nothing open.
        """
        ...

    def device_memory_bytes(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
    ) -> int:
        """Estimate the memory of a card that a loaded artifact takes, from shapes and types alone.

        It is the sum of weights, the caches of the rows that it is built for, and the workspace of
        its largest graph; a build for a card records the same in `Gpu.memory_bytes`.

        Returns:
            The bytes; 0 if the options' device is the CPU.
        """
        ...

    def records(
        self,
        options: Any,
        plan: QuantizationPlan,
        model: nn.Module,
        checkpoint: Checkpoint,
        family: Family,
        choices: Mapping[str, AutotuneResult],
    ) -> Records:
        """Return what a build with these options and `choices` records, without building.

        `validate` compares an artifact with it.
        """
        ...

    def build(self, job: Job[Any]) -> BuildResult:
        """Write the target's own files into the job's folder.

        Returns:
            The requirements of loading, including the device, and the options with the choices of
            the build.

        Raises:
            BuildError: A compiler or an exporter fails.
            CheckpointError: Weights do not fit the types that the options set.
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
        """Load an artifact's files on one device.

        Args:
            folder: The artifact, whose bytes are verified and whose code may run.
            manifest: Its manifest.
            family: The family named by the manifest.
            threads: Number of CPU threads that a call may use.
            device: A kind of device that this machine has.

        Returns:
            A model that the family's `transcribe` takes, its inputs on `device`.

        Raises:
            IntegrityError: The files are not as this target writes them.
            MachineError: This machine, or a package installed on it, cannot run them.
        """
        ...
