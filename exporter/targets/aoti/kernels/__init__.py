"""Select and compile this package's own kernels for the operators of a graph.

AOTInductor calls them directly, through the C interface that it uses for torch's own. They are
linked into the package's library, so loading needs no other file.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporter.errors import BuildError
from exporter.families import attention
from exporter.targets.aoti.modules import dynamic_int8, static_int8, weight_only

_FOLDER = Path(__file__).parent
_T, _OUT = "AtenTensorHandle", "AtenTensorHandle*"


@dataclass(frozen=True)
class Kernel:
    """An operator's kernel: its source files, and the C types of its arguments and results.

    Below the x86-64 level `march`, and for calls that it does not serve, `otherwise` computes the
    same with torch's operators.
    """

    files: tuple[str, ...]
    types: tuple[str, ...]
    march: str = "x86-64-v3"
    otherwise: Callable[..., Any] | None = None
    serves: Callable[[torch.fx.Node], bool] = lambda _: True


def _has_known_width(call: torch.fx.Node) -> bool:
    """Return whether an attention's heads have a width that `encoder_attention.cpp` lists."""
    arguments: Any = call.args
    query, _, _, heads = arguments
    return query.meta["val"].shape[-1] // heads in (16, 32, 48, 64, 80, 96, 128)


_LINEAR = ("linear.cpp", "few_rows.cpp", "many_rows.cpp")
_KERNELS: dict[Any, Kernel] = {
    dynamic_int8.int8_linear: Kernel(_LINEAR, (_T, _T, _T, _OUT, "int32_t", _OUT)),
    dynamic_int8.int8_conv: Kernel(_LINEAR, (_T, _T, _T, _OUT, "int64_t", "int32_t", _OUT)),
    static_int8.static_int8_linear: Kernel(_LINEAR, (*(_T,) * 5, _OUT, "int32_t", _OUT)),
    static_int8.static_int8_conv: Kernel(_LINEAR, (*(_T,) * 5, _OUT, "int64_t", "int32_t", _OUT)),
    weight_only.grouped_linear: Kernel(
        ("grouped_linear.cpp",),
        (_T, _T, _T, _OUT, _OUT, "int64_t", "int64_t", "int32_t", _OUT),
    ),
    attention.attention: Kernel(
        ("encoder_attention.cpp",),
        (_T, _T, _T, "int64_t", _OUT),
        "x86-64-v4",
        attention.attend,
        _has_known_width,
    ),
    attention.step_attention: Kernel(("decoder_attention.cpp",), (*(_T,) * 7, _OUT)),
    attention.keep_window: Kernel(("window_cache.cpp",), (_T, _T, "int64_t", _OUT)),
    attention.window_attention: Kernel(("decoder_attention.cpp",), (_T, _T, "int64_t", _OUT)),
}


def of_graph(program: torch.export.ExportedProgram, march: str) -> dict[Any, Kernel]:
    """Return the kernels for the operators that a graph calls, by operator, at an x86-64 level."""
    return {
        o: kernel for o, kernel in _called(program).items() if _serves(kernel, o, program, march)
    }


def without_others(
    program: torch.export.ExportedProgram, march: str
) -> torch.export.ExportedProgram:
    """Replace operators that no kernel serves at this x86-64 level by torch's operators."""
    called = _called(program).items()
    others = {o: k.otherwise for o, k in called if not _serves(k, o, program, march)}
    return program.run_decompositions(others) if others else program


def _serves(kernel: Kernel, operator: Any, program: Any, march: str) -> bool:
    calls = program.graph.find_nodes(op="call_function", target=operator)
    return kernel.march <= march and all(map(kernel.serves, calls))


def _called(program: torch.export.ExportedProgram) -> dict[Any, Kernel]:
    called = {node.target for node in program.graph.nodes}
    kernels = {definition._opoverload: kernel for definition, kernel in _KERNELS.items()}
    return {operator: kernel for operator, kernel in kernels.items() if operator in called}


def declarations(kernels: Mapping[Any, Kernel], shims: str) -> dict[Any, list[str]]:
    """Return Inductor's `custom_ops_to_c_shims`: the C declaration of each operator's function.

    `shims` is the prefix of the functions' names.
    """
    return {
        operator: [
            f"AOTITorchError {shims}_{operator._schema.name.partition('::')[2]}"
            f"({', '.join(kernel.types)})"
        ]
        for operator, kernel in kernels.items()
    }


def compile_kernels(
    kernels: Iterable[Kernel], folder: Path, compiler: str, flags: Sequence[str]
) -> list[Path]:
    """Compile kernels to object files in `folder`.

    Raises:
        BuildError: The compiler fails.
    """
    includes = [f"-I{path}" for path in (_FOLDER, Path(torch.__file__).parent / "include")]
    objects = []
    for name in sorted({name for kernel in kernels for name in kernel.files}):
        object_path = folder / f"{name}.o"
        command = [compiler, "-c", str(_FOLDER / name), "-o", str(object_path), *flags, *includes]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            reason = next((line for line in process.stderr.splitlines() if "error" in line), "")
            msg = f"{compiler} could not compile {name}: {reason or process.stderr[-300:]}"
            raise BuildError(msg)
        objects.append(object_path)
    return objects
