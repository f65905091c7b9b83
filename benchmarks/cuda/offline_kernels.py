"""Compile our Triton kernels for cards that are not here, and print what each takes of them.

    python benchmarks/cuda/offline_kernels.py

Needs Triton and no GPU. Shapes are those of large-v3. Registers and local memory are those of the
machine code; a thread that needs more than it has spills to local memory, which is slow.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from exporter.targets.aoti.cuda.kernels import attention, product

CAPABILITIES = (80, 86, 89, 90, 100, 120)
MOST_REGISTERS = 255  # of a thread
SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""The most shared memory that a block may have, by capability.

https://docs.nvidia.com/cuda/cuda-c-programming-guide/#features-and-technical-specifications
"""

_PLACES = {"ancestors", "slots", "position", "window"}
_FLOATS = {"peaks", "sums", "parts", "key_scale", "value_scale"}
_NUMBERS = {"heads", "positions", "source"}
_HEAD = {"DIM": 64, "DIM_PADDED": 64, "BLOCK": 64}
_FUSED = {"BIAS": True, "NORM": True, "GELU": True, "RESIDUAL": True}


@dataclass(frozen=True)
class Case:
    """A kernel, its constants, and the types of those arguments that are not float16."""

    kernel: Any
    constants: dict[str, Any]
    types: dict[str, str]
    warps: int = 4


def _product(rows: int, width: int, outputs: int, *, group: int = 0, normed: bool = True) -> Case:
    quantized = group > 0
    types = {"scale": "*fp32", "eps": "fp32", **({"weight": "*i8"} if quantized else {})}
    constants: dict[str, Any] = {
        **product.blocks_of(rows, width, group or width),
        **_FUSED,
        "NORM": normed,
        "WIDTH": width,
        "OUTPUTS": outputs,
        "GROUP": group or width,
        "QUANTIZED": quantized,
    }
    return Case(product.kernel_of(rows), constants, types, product.warps_of(rows))


CASES: dict[str, Case] = {
    "own attention": Case(
        attention.cached_attention_kernel, {**_HEAD, "SPLITS": 1}, {"scale": "fp32"}
    ),
    "own attention, 4 parts": Case(
        attention.cached_attention_kernel,
        {**_HEAD, "SPLITS": 4},
        {"scale": "fp32", "out": "*fp32"},
    ),
    "audio attention, 8 parts": Case(
        attention.audio_attention_kernel,
        {**_HEAD, "SPLITS": 8, "QUANTIZED": False},
        {"scale": "fp32", "out": "*fp32"},
    ),
    "audio attention, int8": Case(
        attention.audio_attention_kernel,
        {**_HEAD, "SPLITS": 8, "QUANTIZED": True},
        {"scale": "fp32", "out": "*fp32", "key": "*i8", "value": "*i8"},
    ),
    "combine 8 parts": Case(
        attention.combine_kernel, {"DIM": 64, "DIM_PADDED": 64, "SPLITS": 8, "SPLITS_PADDED": 8}, {}
    ),
    "product, 1 row": _product(1, 1280, 3840),
    "product, 1 row, int8": _product(1, 5120, 1280, group=5120),
    "product, 1 row, int8 in groups": _product(1, 1280, 5120, group=128),
    "product, 5 rows": _product(5, 1280, 3840),
    "product, 8 rows, int8": _product(8, 1280, 5120, group=1280),
    "product, 32 rows": _product(32, 5120, 1280, normed=False),
    "product, 32 rows, int8 in groups": _product(32, 1280, 1280, group=128, normed=False),
}


@dataclass(frozen=True)
class Taken:
    """What a compiled kernel takes: registers of a thread, and bytes."""

    registers: int
    shared: int
    local: int
    stack: int


def compiled(case: Case, capability: int) -> Taken:
    """Compile a kernel for a compute capability, like 90."""
    names = case.kernel.arg_names
    signature = {name: _type(name, case) for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(
        fn=case.kernel, signature=signature, constexprs=case.constants, attrs=aligned
    )
    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(source, target=target, options={"num_warps": case.warps})
    registers, stack, local = _usage(kernel.asm["cubin"])
    return Taken(registers, kernel.metadata.shared, local, stack)


def _type(name: str, case: Case) -> str:
    if name in case.constants:
        return "constexpr"
    if name in case.types:
        return case.types[name]
    if name in _NUMBERS:
        return "i32"
    return "*i32" if name in _PLACES else "*fp32" if name in _FLOATS else "*fp16"


def _usage(cubin: bytes) -> tuple[int, int, int]:
    """Return the registers of machine code, and the bytes of its stack and local memory."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", done.stdout)
    assert found, done.stdout
    registers, stack, local = map(int, found.groups())
    return registers, stack, local


def table() -> str:
    """Compile all; return a table in Markdown of registers and shared bytes by capability."""
    heads = "".join(f" sm_{capability} |" for capability in CAPABILITIES)
    lines = [f"| kernel |{heads}", f"| --- |{' ---: |' * len(CAPABILITIES)}"]
    for name, case in CASES.items():
        row = [compiled(case, capability) for capability in CAPABILITIES]
        assert not any(taken.local or taken.stack for taken in row), f"{name} spills"
        cells = "".join(f" {taken.registers}, {taken.shared:,} |" for taken in row)
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(f"Triton {triton.__version__}: registers, bytes of shared memory\n\n")
    sys.stdout.write(f"{table()}\n")
