"""What a target tells of itself without torch: a plan, `machine` and lists ask for no more.

The facts are the package at the target's path in `TARGETS`; for a target in one file, the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from exporter.system.accelerators import Device
from exporter.system.hardware import Machine
from exporter.targets.cost import Cost


@dataclass(frozen=True)
class Offer:
    """What a machine offers to a target.

    Attributes:
        says: What follows from the machine, in a few words.
        defaults: The options whose defaults follow the machine or are worth knowing, with their
            values here; None where the target cannot be built here.
        details: Further facts, under names of the target's own.
    """

    says: str
    defaults: Mapping[str, Any] | None
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        defaults = None if self.defaults is None else dict(self.defaults)
        return {"defaults": defaults, **self.details, "says": self.says}


class TargetFacts(Protocol):
    """What the module at a target's path offers, at once.

    Attributes:
        COSTS: The constants of a build for each kind of device that the target is built for.
    """

    COSTS: Mapping[Device, Cost]

    def machine_offer(self, machine: Machine) -> Offer:
        """Return what `machine` offers to artifacts of this kind."""
        ...
