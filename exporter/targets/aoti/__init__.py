"""Packages compiled ahead of time by AOTInductor.

The target itself is in `target`; here are the facts that need no torch.
"""

from typing import Literal, get_args

from exporter.system.accelerators import Device
from exporter.system.hardware import Machine, cxx_compiler
from exporter.targets.cost import MB, Cost
from exporter.targets.facts import Offer

Level = Literal["x86-64-v3", "x86-64-v4"]
LEVELS: tuple[Level, ...] = get_args(Level)
VNNI, BF16, AMX_INT8 = "avx512_vnni", "avx512_bf16", "amx_int8"

DEFAULT_SCHEME = "dynamic-int8"

COSTS: dict[Device, Cost] = {
    "cpu": Cost(
        base_bytes=440 * MB,
        module_bytes=1_100_000,
        trial_bytes=35 * MB,
        scratch_ratio=0.1,
        base_s=28.0,
        module_s=0.075,
        trial_s=17.0,
        rate_bytes_s=450 * MB,
        reload_base_bytes=75 * MB,
        reload_ratio=1.2,
        reload_base_s=4.0,
        reload_bytes_s=160 * MB,
    ),
    # Estimates from the sizes of torch for CUDA and of its contexts: no build for a GPU has been
    # measured. One layer is compiled for all, so modules cost little.
    "cuda": Cost(
        base_bytes=6_000 * MB,
        module_bytes=200_000,
        scratch_ratio=0.1,
        base_s=90.0,
        module_s=0.01,
        rate_bytes_s=450 * MB,
        reload_base_bytes=3_000 * MB,
        reload_ratio=0.1,
        reload_base_s=8.0,
        reload_bytes_s=500 * MB,
    ),
}


def default_level(machine: Machine) -> Level | None:
    """Return the x86-64 level to compile for on a machine; None if it supports none."""
    return next((level for level in LEVELS if level == machine.isa), None)


def default_extension(machine: Machine, march: str | None, feature: str) -> bool:
    """Return whether kernels for `march` use a further CPU feature by default."""
    return march == "x86-64-v4" and feature in machine.features


def machine_offer(machine: Machine) -> Offer:
    """Describe the options' defaults, the precision of products, and the C++ compiler."""
    march = default_level(machine)
    if march is None:
        levels = " or ".join(LEVELS)
        return Offer(f"cannot be built here: it compiles for {levels}, this is {machine.isa}", None)
    vnni, bf16 = (default_extension(machine, march, name) for name in (VNNI, BF16))
    products = (
        "int8 is multiplied by int8, added in 32 bits"
        if vnni
        else f"without {VNNI}, int8 weights are widened before they are multiplied"
    )
    compiler = cxx_compiler()
    builder = f"compiled by {compiler['version']}" if compiler else "no C++ compiler to build it"
    says = f"{products}; {_bfloat16(machine)}; {builder}"
    return Offer(says, {"march": march, "vnni": vnni, "bf16": bf16})


def _bfloat16(machine: Machine) -> str:
    for feature in ("amx_bf16", BF16):
        if feature in machine.features:
            return f"bfloat16 products are the CPU's own ({feature})"
    return "bfloat16 is computed as float32: it saves memory, not time"
