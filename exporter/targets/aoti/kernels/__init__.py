"""Select and compile this package's own kernels for the operators of a graph.

AOTInductor calls them directly, through the C interface that it uses for torch's own. They are
linked into the package's library, so loading needs no other file. Unless a graph calls what only
libtorch has, so is what stands in for libtorch, in the folder `host`.
"""

import json
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
_HOST = _FOLDER / "host"
# aten's operators that are products: ours are in float32 only. For bfloat16, libtorch has kernels
# that use the matrix units of some CPUs.
_PRODUCTS = {"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "conv1d", "conv2d", "convolution"}
_PRODUCTS |= {"scaled_dot_product_attention", "einsum", "_int_mm"}
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


# An entry more than there are names: an array has at least one.
_NAMES = """#include "host/weight_names.h"
namespace exporter {{
const WeightName kWeightNames[] = {{
{entries}{{nullptr, nullptr}}}};
const size_t kNumWeightNames = {count};
}}  // namespace exporter
"""

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
        ("attention/encoder_attention.cpp",),
        (_T, _T, _T, "int64_t", _OUT),
        "x86-64-v4",
        attention.attend,
        _has_known_width,
    ),
    attention.step_attention: Kernel(("attention/decoder_attention.cpp",), (*(_T,) * 7, _OUT)),
    attention.keep_window: Kernel(("attention/window_cache.cpp",), (_T, _T, "int64_t", _OUT)),
    attention.window_attention: Kernel(
        ("attention/decoder_attention.cpp",), (_T, _T, "int64_t", _OUT)
    ),
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


def sources(kernels: Iterable[Kernel]) -> list[Path]:
    """Return the source files of kernels."""
    return [_FOLDER / name for name in sorted({name for k in kernels for name in k.files})]


def needs_libtorch(program: torch.export.ExportedProgram) -> bool:
    """Return whether a graph has products that only libtorch computes, such as oneDNN's.

    The linker finds what else there may be.
    """
    for node in program.graph.nodes:
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload):
            continue
        space, _, name = target._schema.name.partition("::")
        value = node.meta.get("val")
        other = isinstance(value, torch.Tensor) and value.dtype != torch.float32
        if space == "aten" and name in _PRODUCTS and other:
            return True
    return False


def host_sources(folder: Path, names: Mapping[str, str]) -> tuple[Path, Path]:
    """Write the source files of what a package has in the place of libtorch.

    One includes all files of `host`, because most of the time goes into headers that they share. It
    is the same for all graphs; the other has the names of one graph's weights.

    Args:
        folder: A folder for the files.
        names: Maps the module's names of weights to their stored names.
    """
    host, weights = folder / "host.cpp", folder / "weight_names.cpp"
    includes = "".join(f'#include "host/{path.name}"\n' for path in sorted(_HOST.glob("*.cpp")))
    host.write_text(includes, encoding="utf-8")
    entries = "".join(f"{{{json.dumps(own)}, {json.dumps(n)}}},\n" for own, n in names.items())
    weights.write_text(_NAMES.format(entries=entries, count=len(names)), encoding="utf-8")
    return host, weights


def compile_source(source: Path, path: Path, compiler: str, flags: Sequence[str]) -> None:
    """Compile a C++ source to an object file.

    Raises:
        BuildError: The compiler fails.
    """
    includes = [f"-I{folder}" for folder in (_FOLDER, Path(torch.__file__).parent / "include")]
    command = [compiler, "-c", str(source), "-o", str(path), *flags, *includes]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = next((line for line in process.stderr.splitlines() if "error" in line), "")
        msg = f"{compiler} could not compile {source.name}: {reason or process.stderr[-300:]}"
        raise BuildError(msg)
