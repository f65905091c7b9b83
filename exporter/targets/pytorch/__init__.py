"""An int8 state_dict and its config, for torch.

The target itself is in `target`; here are the facts that need no torch.
"""

from exporter.system.accelerators import Device
from exporter.system.hardware import Machine
from exporter.targets.cost import MB, Cost
from exporter.targets.facts import Offer

DEFAULT_SCHEME = "dynamic-int8"

COSTS: dict[Device, Cost] = {
    "cpu": Cost(
        base_bytes=400 * MB,
        largest=1.4,
        base_s=3.3,
        rate_bytes_s=700 * MB,
        reload_base_bytes=490 * MB,
        reload_ratio=1.2,
        reload_base_s=4.0,
        reload_bytes_s=80 * MB,
    )
}


def machine_offer(machine: Machine) -> Offer:
    """Describe the bits of activations in products, which depend on the loading machine."""
    bits = 8 if machine.vnni else 7
    why = "added in 32 bits" if machine.vnni else "no VNNI: with 8, sums would saturate at 16 bits"
    says = f"activations in {bits} bits ({why}), chosen where the artifact is loaded"
    return Offer(says, {}, {"activation_bits": bits})
