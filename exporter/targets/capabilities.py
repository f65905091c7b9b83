"""What this machine offers to each kind of artifact, as data and in words.

Without torch, so that `exporter machine` answers at once; a test holds the defaults told here to
those of the targets. What takes time to find out is measured in `rates.py`.
"""

import os
import shutil
import subprocess
from dataclasses import asdict
from typing import Any

from exporter.system import hardware
from exporter.system.hardware import KERNEL_FEATURES, Machine

_LEVELS = ("x86-64-v3", "x86-64-v4")
_VNNI = "avx512_vnni"


def machine_capabilities() -> dict[str, Any]:
    """Facts about this machine as plain data, and under `targets` what they mean, by kind."""
    here, compiler = hardware.describe(), cxx()
    return {
        "cpu": here.cpu,
        "cores": here.cores,
        "isa": here.isa,
        "features": {name: name in here.features for name in KERNEL_FEATURES},
        "caches": [asdict(cache) for cache in hardware.caches()],
        "memory_bytes": here.memory_bytes,
        "memory_available_bytes": hardware.memory_available_bytes(),
        "compiler": compiler,
        "targets": {
            "onnx-int8": _onnx_int8(here),
            "torch-int8": _torch_int8(here),
            "aoti": _aoti(here, compiler),
        },
    }


def cxx() -> dict[str, str] | None:
    """The C++ compiler that aoti would call (CXX, or g++) and its version; None without one."""
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        return None
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return {"command": command, "version": told.stdout.partition("\n")[0]}


def _onnx_int8(here: Machine) -> dict[str, Any]:
    """The preset is the same everywhere; whether its u8 x s8 products are exact is not."""
    saturates = here.isa.startswith("x86-64") and not here.vnni
    says = "u8 x s8 products are added in 32 bits: nothing saturates"
    if saturates:
        says = (
            "no VNNI: u8 x s8 products saturate at 16 bits, so build for this machine with "
            "`reduce_range: true` or `preset: avx2`"
        )
    return {"defaults": {"preset": "avx512_vnni"}, "saturates": saturates, "says": says}


def _torch_int8(here: Machine) -> dict[str, Any]:
    bits = 8 if here.vnni else 7
    why = "added in 32 bits" if here.vnni else "no VNNI: with 8, sums would saturate at 16 bits"
    says = f"activations in {bits} bits ({why}), chosen where the artifact is loaded"
    return {"defaults": {}, "activation_bits": bits, "says": says}


def _aoti(here: Machine, compiler: dict[str, str] | None) -> dict[str, Any]:
    """What the options default to here, how numbers are multiplied, and what compiles them."""
    if here.isa not in _LEVELS:
        says = f"cannot be built here: it compiles for {' or '.join(_LEVELS)}, this is {here.isa}"
        return {"defaults": None, "says": says}
    vnni, bf16 = (
        here.isa == "x86-64-v4" and name in here.features for name in (_VNNI, "avx512_bf16")
    )
    products = (
        "int8 is multiplied by int8, added in 32 bits"
        if vnni
        else f"without {_VNNI}, int8 weights are widened before they are multiplied"
    )
    builder = f"compiled by {compiler['version']}" if compiler else "no C++ compiler to build it"
    return {
        "defaults": {"march": here.isa, "vnni": vnni, "bf16": bf16},
        "says": f"{products}; {_bfloat16(here)}; {builder}",
    }


def _bfloat16(here: Machine) -> str:
    for feature in ("amx_bf16", "avx512_bf16"):
        if feature in here.features:
            return f"bfloat16 products are the CPU's own ({feature})"
    return "bfloat16 is computed as float32: it saves memory, not time"
