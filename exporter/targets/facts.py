"""Facts about targets that need no torch, for plans, `exporter machine` and lists.

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
    """A machine's capabilities for a target.

    Attributes:
        says: A short description of them.
        defaults: Options whose defaults depend on the machine or are notable, with their values
            here; None if the target cannot be built here.
        details: Further facts, under target-specific names.
    """

    says: str
    defaults: Mapping[str, Any] | None
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        defaults = None if self.defaults is None else dict(self.defaults)
        return {"defaults": defaults, **self.details, "says": self.says}


class TargetFacts(Protocol):
    """The interface of the module at a target's path in `TARGETS`.

    Attributes:
        COSTS: The constants of a build for each kind of device that the target is built for.
        DEFAULT_SCHEME: The scheme of all modules where a recipe sets none.
    """

    COSTS: Mapping[Device, Cost]
    DEFAULT_SCHEME: str

    def machine_offer(self, machine: Machine) -> Offer:
        """Return the capabilities of `machine` for artifacts of this kind."""
        ...
