"""Run torch.export and AOTInductor, so that a package has only what its manifest says."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from exporter.errors import BuildError, MachineError, exhausted
from exporter.families.graph import Graph
from exporter.targets.aoti import kernels, linear, package

# Small libraries that name no folder of the machine they were compiled on.
_FLAGS = (
    "-fvisibility=hidden -ffunction-sections -Wl,--gc-sections -Wl,--build-id=none -s "
    '-Wno-builtin-macro-redefined -D__FILE__=\\"package\\"'
)


def compile_graph(
    graph: Graph,
    module: nn.Module,
    names: Mapping[str, str],
    path: Path,
    *,
    march: str,
    extensions: Sequence[str],
    threads: int | None,
) -> None:
    """Trace `module`, the graph's own or one around it, and write a package without weights.

    `names` maps the parameters of `module` to the names under which they will be found; the
    package's spec tells which of them it uses. No parameter's values are read.
    `march` is an x86-64 level, to which `extensions` (like avx512_vnni) are added; `threads` is
    baked in, or left open when None. Raises BuildError.
    """
    examples = tuple(torch.zeros(t.shape, dtype=t.dtype) for t in graph.inputs.values())
    with _workplace(path.parent) as folder, torch.no_grad():
        try:
            program = torch.export.export(
                module, examples, dynamic_shapes={"inputs": _dynamic(graph)}, strict=False
            )
            linear.fuse_gelu(program.graph)
            own = kernels.of_graph(program, march)
            program = kernels.without_others(program, march)
            spec = _spec(graph, program, names)
            flags = _kernel_flags(march, extensions, threads)
            objects = kernels.compile_kernels(own.values(), folder, _compiler(), flags)
            settings = _settings(march, threads)
            settings["aot_inductor.custom_ops_to_c_shims"] = kernels.declarations(own)
            with _target_isa(march, folder, objects):
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(folder / "graph.pt2"), inductor_configs=settings
                )
        except RuntimeError as error:
            if exhausted(error):
                raise
            reason = _reason(error)
            msg = f"AOTInductor could not compile {graph.name}: {reason}"
            raise BuildError(msg) from error
        package.write(folder / "graph.pt2", path, spec)


def _reason(error: RuntimeError) -> str:
    """The line that tells why: a compiler's own, or the first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error:" in line), lines[0])


def require_compiler() -> None:
    """Refuse to start without the C++ compiler that Inductor will call."""
    compiler = _compiler()
    if shutil.which(compiler) is None:
        msg = (
            f"aoti needs a C++ compiler, and {compiler!r} was not found.\n"
            "Install one (Debian: apt install g++) or set CXX to its path; loading needs none."
        )
        raise MachineError(msg)


def compiler_version() -> str:
    """What the compiler says of itself, for those who keep what it makes."""
    command = [_compiler(), "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.partition("\n")[0]  # one that fails here will say so when it compiles


def _compiler() -> str:
    """The C++ compiler that Inductor will call: CXX, or g++."""
    from torch._inductor import config

    name: str = config.cpp.cxx[1]
    return name


def _kernel_flags(march: str, extensions: Sequence[str], threads: int | None) -> list[str]:
    """How our own kernels are compiled."""
    capability = "AVX512" if march == "x86-64-v4" else "AVX2"
    return [
        *("-std=c++20", "-O3", "-fPIC", "-fopenmp", f"-march={march}"),
        *(f"-m{name.replace('_', '')}" for name in extensions),
        *(f"-DCPU_CAPABILITY_{capability}", f"-DCPU_CAPABILITY={capability}"),
        *([f"-DEXPORTER_THREADS={threads}"] if threads else []),
        *shlex.split(_FLAGS),
    ]


def _settings(march: str, threads: int | None) -> dict[str, Any]:
    """Inductor's settings.

    Without freezing: it would widen weights that are stored in 16 bits, and pack weights in a way
    that only this CPU understands.
    """
    return {
        "cpp.march": march,
        "cpp.dynamic_threads": threads is None,
        "cpp.threads": threads or -1,
        "freezing": False,
        "aot_inductor.package_constants_in_so": False,
        "compile_threads": 1,
        "aot_inductor.compile_wrapper_opt_level": "Os",
        "aot_inductor.precompile_headers": False,  # needs the openssl command
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
    }


@contextmanager
def _workplace(beside: Path) -> Iterator[Path]:
    """A private folder, which is also Inductor's cache; it is gone afterwards."""
    # Beside the artifact there is room for its size; Inductor's commands do not quote paths.
    place = beside if re.fullmatch(r"[\w./+-]+", str(beside)) else None
    with (
        tempfile.TemporaryDirectory(prefix=".aoti-", dir=place) as name,
        mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": name}),
    ):
        yield Path(name)


@contextmanager
def _target_isa(march: str, folder: Path, objects: Sequence[Path]) -> Iterator[None]:
    """Make Inductor vectorize for `march` and not for the machine it runs on.

    It probes this CPU and adds -mavx512bf16, -mavx512vnni or -mamx-* where they exist: code that a
    CPU of the level named in the manifest could not run.
    """
    from torch._inductor import cpu_vec_isa

    exported = folder / "exported"
    exported.write_text("{ global: AOTInductor*; local: *; };\n", encoding="ascii")
    linked = [f"-Wl,--version-script={exported}", *map(str, objects)]
    base: Any = cpu_vec_isa.VecAVX512 if march == "x86-64-v4" else cpu_vec_isa.VecAVX2

    class Isa(base):  # type: ignore[misc]
        _arch_flags = " ".join([base._arch_flags, _FLAGS, *linked])
        __hash__ = base.__hash__

        def __bool__(self) -> bool:
            return True

    with mock.patch.object(cpu_vec_isa, "valid_vec_isa_list", return_value=[Isa()]):
        yield


def _dynamic(graph: Graph) -> tuple[dict[int, Any], ...]:
    """torch.export's dynamic axes, one mapping an input; one name is one size."""
    named = [graph.dynamic.get(name, {}) for name in graph.inputs]
    sizes = {name: torch.export.Dim(name, min=1) for axes in named for name in axes.values()}
    return tuple({axis: sizes[name] for axis, name in axes.items()} for axes in named)


def _spec(graph: Graph, program: Any, names: Mapping[str, str]) -> package.Spec:
    """What the package takes, gives and needs, for the checks of the one who calls it."""
    inputs = {}
    for name, tensor in graph.inputs.items():
        axes = graph.dynamic.get(name, {})
        shape = [axes.get(axis, size) for axis, size in enumerate(tensor.shape)]
        inputs[name] = _described(tensor, shape, name in graph.mutated)
    results = program.graph.output_node().args[0][-len(graph.outputs) :]
    given = zip(results, graph.outputs.items(), strict=True)
    outputs = {name: _described(node.meta["val"], shape) for node, (name, shape) in given}
    parameters = program.graph_signature.inputs_to_parameters
    constants = {}
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in parameters and node.users:
            own, tensor = parameters[node.name], node.meta["val"]
            dtype = str(tensor.dtype).removeprefix("torch.")
            constants[own] = package.Constant(names[own], dtype, tuple(tensor.shape))
    return package.Spec(inputs, outputs, constants)


def _described(
    tensor: Tensor, shape: Sequence[int | str], mutated: bool = False
) -> package.TensorSpec:
    return package.TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(shape), mutated)
