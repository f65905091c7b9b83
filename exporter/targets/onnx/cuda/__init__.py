"""ONNX graphs in float16 for onnxruntime's CUDA provider.

The target itself is in `target`; here are the facts that need neither torch nor onnxruntime.
"""

from exporter.system.accelerators import Device
from exporter.system.hardware import Machine
from exporter.targets.cost import MB, Cost
from exporter.targets.facts import Offer

DEFAULT_SCHEME = "float"

CAPABILITY = "7.5"
"""The oldest compute capability that the wheels of onnxruntime-gpu 1.31 have code for."""

CUDA = "13.0"
"""The version of CUDA that these wheels are built with."""

# Of building on a CPU, as everywhere; that of loading on a card is not measured yet.
COSTS: dict[Device, Cost] = {
    "cuda": Cost(
        base_bytes=515 * MB,
        largest=1.3,
        base_s=9.0,
        rate_bytes_s=270 * MB,
        reload_base_bytes=95 * MB,
        reload_ratio=1.4,
        reload_base_s=4.0,
        reload_bytes_s=130 * MB,
    )
}


def machine_offer(machine: Machine) -> Offer:
    """Return what every machine offers: tracing needs no card."""
    return Offer("built on any machine; float16 on a card", {"device": "cuda"})
