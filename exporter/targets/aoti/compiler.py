"""Run torch.export and AOTInductor, so that a package has only what its manifest says."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import BuildError, MachineError, exhausted
from exporter.families.graph import Graph
from exporter.system.accelerators import Device
from exporter.targets.aoti import kernels, linear, package
from exporter.targets.aoti.devices import LIBRARY_FLAGS, SUPPORT
from exporter.targets.aoti.target_isa import target_isa


def compile_graph(
    graph: Graph,
    module: nn.Module,
    names: Mapping[str, str],
    path: Path,
    *,
    march: str,
    extensions: Sequence[str],
    threads: int | None,
    device: Device = "cpu",
) -> None:
    """Trace `module`, the graph's own or one around it, and write a package without weights.

    `names` maps the parameters of `module` to the names under which they will be found; the
    package's spec tells which of them it uses. No parameter's values are read.
    `march` is an x86-64 level, to which `extensions` (like avx512_vnni) are added; `threads` is
    baked in, or left open when None. Raises BuildError.
    """
    support = SUPPORT[device]
    examples = tuple(
        torch.zeros(t.shape, dtype=t.dtype, device=support.torch_device)
        for t in graph.inputs.values()
    )
    with _workplace(path.parent) as folder, torch.no_grad():
        try:
            program = torch.export.export(
                module, examples, dynamic_shapes={"inputs": _dynamic(graph)}, strict=False
            )
            linear.fuse_gelu(program.graph)
            own = kernels.of_graph(program, march)
            program = kernels.without_others(program, march)
            spec = _spec(graph, program, names)
            flags = support.kernel_flags(march, extensions, threads)
            objects = kernels.compile_kernels(own.values(), folder, _compiler(), flags)
            settings = support.inductor_settings(march, threads)
            settings["aot_inductor.custom_ops_to_c_shims"] = kernels.declarations(
                own, support.shims
            )
            exported = folder / "exported"
            exported.write_text("{ global: AOTInductor*; local: *; };\n", encoding="ascii")
            linked = [f"-Wl,--version-script={exported}", *map(str, objects)]
            with target_isa(march, [LIBRARY_FLAGS, *linked]):
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


@contextmanager
def _workplace(beside: Path) -> Iterator[Path]:
    """A private folder, which is also Inductor's cache; it is gone afterwards."""
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    # Beside the artifact there is room for its size; Inductor's commands do not quote paths.
    place = beside if re.fullmatch(r"[\w./+-]+", str(beside)) else None
    with (
        tempfile.TemporaryDirectory(prefix=".aoti-", dir=place) as name,
        temporary_cache_dir(name),
    ):
        yield Path(name)


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
