"""Compile the parts of layered graphs, with the weights as inputs of their code.

A layer is compiled once and called with the weights of each. So a build takes as long for 32 layers
as for one, and packages hold no weights.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from exporter.errors import BuildError, exhausted
from exporter.families.graph import Graph
from exporter.runtime.aoti.spec import Constant, Spec
from exporter.targets.aoti import package
from exporter.targets.aoti.compiler import exported, reason_of, tensors_of, workplace
from exporter.targets.aoti.cuda.operators import replaced, with_kernels
from exporter.targets.aoti.devices import LIBRARY_FLAGS
from exporter.targets.aoti.target_isa import target_isa

HOST_LEVEL = "x86-64-v3"
"""The level of the code that starts kernels."""


def compile_part(
    graph: Graph,
    names: Mapping[str, str],
    path: Path,
    *,
    device: torch.device,
    kernels: bool,
    settings: Mapping[str, Any],
    home: Path | None = None,
) -> None:
    """Trace one part of a layered graph, and write a package that takes its weights.

    Args:
        graph: The part, whose module is on `meta`.
        names: Maps the parameters of its module to the names of the stored weights.
        path: The package to write.
        device: The device to compile for, and to measure kernels on.
        kernels: Whether our kernels serve calls of few rows; else torch's operators do.
        settings: Inductor's settings, but for those that all parts share.
        home: The folder of the toolkit, to compile for a GPU.

    Raises:
        BuildError: The graph cannot be traced or compiled.
    """
    with workplace(path.parent) as folder, torch.no_grad():
        try:
            program, spec = traced(graph, names, device, kernels=kernels)
            tools = nullcontext() if home is None else toolkit(home, folder)
            with tools, target_isa(HOST_LEVEL, [LIBRARY_FLAGS]):
                torch._inductor.aoti_compile_and_package(
                    program,
                    package_path=str(folder / "graph.pt2"),
                    inductor_configs=known_settings(settings),
                )
        except RuntimeError as error:
            if exhausted(error):
                raise
            msg = f"AOTInductor could not compile {path.stem}: {reason_of(error)}"
            raise BuildError(msg) from error
        package.write(folder / "graph.pt2", path, spec)


_COMMON: dict[str, Any] = {
    "cpp.march": HOST_LEVEL,
    "freezing": False,
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.precompile_headers": False,  # needs the openssl command
}


def known_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings and those that all parts share; not those that this torch does not have."""
    known = set(torch._inductor.list_options())
    return {name: value for name, value in {**_COMMON, **settings}.items() if name in known}


def cuda_settings(rows: int | None) -> dict[str, Any]:
    """Return Inductor's settings for a GPU.

    With one row, products become reductions, fused with what is around them, whose tiles are
    searched; with a few, templates compete with cuBLAS. Kernels are embedded in the library, so
    that a package has no other members.

    Args:
        rows: The rows of a decoder's step; None for graphs with as many rows as they are given.
    """
    return {
        "aot_inductor.embed_kernel_binary": True,
        "coordinate_descent_tuning": rows == 1,
        "max_autotune": rows is not None and rows > 1,
        "triton.cudagraphs": False,
    }


def traced(
    graph: Graph, names: Mapping[str, str], device: torch.device, *, kernels: bool
) -> tuple[torch.export.ExportedProgram, Spec]:
    """Trace a part of a graph as a function of its weights and inputs.

    Under a `FakeTensorMode`, nothing is allocated, and the device need not be there.

    Returns:
        The program, and its description with the weights in their order.
    """
    inputs = [torch.zeros(t.shape, dtype=t.dtype, device=device) for t in graph.inputs.values()]
    own: dict[str, Tensor] = {}
    own |= graph.module.named_parameters()
    own |= graph.module.named_buffers()
    program = _traced(graph, own, inputs, device, kernels=kernels)
    used = _used(program, own)
    if len(used) < len(own):  # the module is the whole model, and the part is some of it
        own = {name: own[name] for name in used}
        program = _traced(graph, own, inputs, device, kernels=kernels)
    taken, given = tensors_of(graph, program)
    weights = {
        name: Constant(names[name], str(t.dtype).removeprefix("torch."), tuple(t.shape))
        for name, t in own.items()
    }
    return program, Spec(taken, given, weights, needs_torch=True, passed=True)


def _traced(
    graph: Graph,
    own: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    device: torch.device,
    *,
    kernels: bool,
) -> torch.export.ExportedProgram:
    weights = [torch.empty(t.shape, dtype=t.dtype, device=device) for t in own.values()]
    module = _Stateless(graph.module, tuple(own), few=kernels)
    program = exported(graph, module, (*weights, *inputs), len(weights))
    if kernels:
        before = _outputs(program)
        with_kernels(program.graph)
        for old, new in zip(before, _outputs(program), strict=True):
            program.graph_signature.replace_all_uses(old, new)
        program.graph_module.recompile()
        program.validate()
    return program


def _outputs(program: torch.export.ExportedProgram) -> list[str]:
    return [node.name for node in program.graph.output_node().args[0]]


def _used(program: torch.export.ExportedProgram, own: Mapping[str, Tensor]) -> list[str]:
    placeholders = program.graph.find_nodes(op="placeholder")
    return [name for name, node in zip(own, placeholders, strict=False) if node.users]


class _Stateless(nn.Module):
    """A module whose parameters are its first inputs, in the order of `names`."""

    def __init__(self, module: nn.Module, names: Sequence[str], *, few: bool) -> None:
        super().__init__()
        self._few = few
        self._inner = (module,)  # in a tuple, so that its parameters are not this module's
        self._names = tuple(names)

    def forward(self, *inputs: Tensor) -> Any:
        count = len(self._names)
        weights = dict(zip(self._names, inputs[:count], strict=True))
        with replaced(few=self._few):
            return functional_call(self._inner[0], weights, inputs[count:])


@contextmanager
def toolkit(home: Path, folder: Path) -> Iterator[None]:
    """Let torch and the linker find the toolkit, and the driver's library by its linker's name.

    Args:
        home: The folder with `include`.
        folder: A folder for a link to the driver, whose packages lack the linker's name.
    """
    from torch.utils import cpp_extension
    from triton.backends.nvidia.driver import libcuda_dirs

    found: Any = cpp_extension
    named = found.CUDA_HOME
    (folder / "libcuda.so").symlink_to(Path(libcuda_dirs()[0]) / "libcuda.so.1")
    before = {name: os.environ.get(name) for name in ("CUDA_HOME", "LIBRARY_PATH")}
    os.environ["CUDA_HOME"] = str(home)
    os.environ["LIBRARY_PATH"] = ":".join(filter(None, [str(folder), before["LIBRARY_PATH"]]))
    found.CUDA_HOME = str(home)  # it may have been looked for before
    try:
        yield
    finally:
        found.CUDA_HOME = named
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
