"""What validation asks of a target, to compare an artifact with what its plan says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import IntegrityError
from exporter.families.base import Family
from exporter.families.graph import GraphFunction
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.simulate import Rounding


@dataclass(frozen=True)
class StoredWeight:
    """A weight as an artifact stores it, and as the plan makes it of the checkpoint.

    `stored` is None where the artifact lacks it, `expected` where the checkpoint gives none.
    """

    file: str
    name: str
    stored: Tensor | None
    expected: Tensor | None


@dataclass
class Unrounded:
    """An artifact that computes with its own graphs and weights, but does not round activations.

    Attributes:
        model: The model, for the family's `forced`.
        others: The graphs for other loaders, by name.
        watching: Whether outputs of modules are kept.
        states: These outputs, float32 [batch, length, width] of every call, by the modules' names
            in the original.
    """

    model: Any
    others: Mapping[str, GraphFunction] = field(default_factory=dict)
    watching: bool = False
    states: dict[str, list[Tensor]] = field(default_factory=dict)

    def keep(self, module: str, output: Tensor) -> None:
        """Keep an output, if outputs are kept."""
        if self.watching:
            self.states.setdefault(module, []).append(output.detach().float())


def plan_of(folder: Path, manifest: Manifest) -> QuantizationPlan:
    """Return an artifact's plan.

    Raises:
        IntegrityError: No recipe has such a plan.
    """
    groups = [group.model_dump(mode="json") for group in manifest.quantization]
    try:
        return QuantizationPlan.from_data(groups)
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        msg = f"{folder}: its manifest has a plan that no recipe has ({reason})"
        raise IntegrityError(msg) from error


class Inspection(Protocol):
    """The interface of a target's `inspection`.

    Attributes:
        EXACT: Whether `unrounded` can open its artifacts.
    """

    EXACT: bool

    def rounding(
        self,
        manifest: Manifest,
        scheme: IntegerScheme | None,
        *,
        graph: str,
        once: bool,
        narrow: bool,
    ) -> Rounding:
        """Return how an artifact rounds activations at a module.

        Args:
            manifest: The artifact's manifest.
            scheme: The module's scheme, or None if it is not quantized.
            graph: The graph's name in the family's static cut.
            once: For the modules that run once per window, not once per token.
            narrow: Whether the audio's keys and values come from int8 weights.
        """
        ...

    def stored(
        self, folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
    ) -> Iterator[StoredWeight]:
        """Yield every weight of an artifact beside what it should be, one at a time."""
        ...

    def unrounded(
        self, folder: Path, manifest: Manifest, family: Family, threads: int
    ) -> Unrounded | None:
        """Open an artifact so that it does not round activations; None where that is impossible.

        Raises:
            IntegrityError: The files are not as this target writes them.
        """
        ...

    def others(self, folder: Path, manifest: Manifest, threads: int) -> dict[str, GraphFunction]:
        """Open the graphs that only other loaders use, by name."""
        ...
