"""ONNX graphs with int8 weights and dynamic activations, for onnxruntime.

The target itself is in `target`; here are the facts that need neither torch nor onnxruntime.
"""

from typing import Literal

from exporter.system.accelerators import Device
from exporter.system.hardware import Machine
from exporter.targets.cost import MB, Cost
from exporter.targets.facts import Offer

Preset = Literal["avx512_vnni", "avx512", "avx2", "arm64"]
DEFAULT_PRESET: Preset = "avx512_vnni"
OPSET = 20

DEFAULT_SCHEME = "dynamic-int8"

COSTS: dict[Device, Cost] = {
    "cpu": Cost(
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
    """Return the preset, and whether its u8 x s8 products are exact on the machine."""
    saturates = products_saturate(machine)
    says = "u8 x s8 products are added in 32 bits: nothing saturates"
    if saturates:
        says = (
            "no VNNI: u8 x s8 products saturate at 16 bits, so build for this machine with "
            "`preset: avx2` or `quantization: {default: {scheme: dynamic-int8, bits: 7}}`"
        )
    return Offer(says, {"preset": DEFAULT_PRESET}, {"saturates": saturates})


def products_saturate(machine: Machine) -> bool:
    """Return whether onnxruntime's u8 x s8 products saturate at 16 bits on a machine."""
    return machine.isa.startswith("x86-64") and not machine.vnni
