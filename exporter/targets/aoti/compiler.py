"""Run torch.export and AOTInductor, with settings from the artifact's options only."""

import logging
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as shape_settings

from exporter.errors import BuildError, MachineError, exhausted
from exporter.families.graph import Graph
from exporter.runtime.aoti.spec import Constant, Spec, TensorSpec
from exporter.system.build_cache import get_or_build
from exporter.system.text import listed
from exporter.targets.aoti import kernels, package
from exporter.targets.aoti.devices import CPU, LIBRARY_FLAGS
from exporter.targets.aoti.modules import fuse_gelu
from exporter.targets.aoti.target_isa import target_isa

_log = logging.getLogger(__name__)
_UNDEFINED = re.compile(r"undefined reference to [`'](\w+)'")


def compile_graph(
    graph: Graph,
    module: nn.Module,
    names: Mapping[str, str],
    path: Path,
    *,
    march: str,
    extensions: Sequence[str],
    threads: int | None,
    fresh: bool = False,
) -> None:
    """Trace `module`, the graph's own or one around it, and write a package without weights.

    The package needs no libtorch if what it would call is in `kernels/host`.

    No parameter's values are read.

    Args:
        graph: The graph, with examples of its inputs.
        module: The module to trace.
        names: Maps the parameters of `module` to the names of the stored weights; the package's
            spec lists those it uses.
        path: The package to write.
        march: An x86-64 level.
        extensions: Further CPU features, like avx512_vnni.
        threads: Number of threads to compile in; None leaves it to the loading process.
        fresh: Compile our kernels again that are in the cache.

    Raises:
        BuildError: The graph cannot be traced or compiled.
    """
    examples = tuple(torch.zeros(t.shape, dtype=t.dtype) for t in graph.inputs.values())
    with workplace(path.parent) as folder, torch.no_grad():
        try:
            program = exported(graph, module, examples)
            fuse_gelu(program.graph)
            own = kernels.of_graph(program, march)
            program = _without_others(graph, program, march)
            spec = _spec(graph, program, names)
            # Graphs with caches take a token of each row at a time.
            settings = CPU.inductor_settings(march, threads, few_rows=bool(graph.mutated))
            settings["aot_inductor.custom_ops_to_c_shims"] = kernels.declarations(own, CPU.shims)
            flags = CPU.kernel_flags(march, extensions, threads)
            compiling = _Compiling(program, march, flags, settings, folder, fresh)
            objects = [compiling.shared(source) for source in kernels.sources(own.values())]
            needs_torch = kernels.needs_libtorch(program)
            if not needs_torch:
                stored = {name: constant.name for name, constant in spec.constants.items()}
                host, named = kernels.host_sources(folder, stored)
                host_objects = [compiling.shared(host), compiling.compiled(named)]
                missing = compiling.package([*objects, *host_objects], libtorch=False)
                needs_torch = bool(missing)
                if missing:
                    _log.warning("%s runs in torch only, for %s", graph.name, listed(missing))
            if needs_torch:
                compiling.package(objects, libtorch=True)
            spec = replace(spec, needs_torch=needs_torch)
        except RuntimeError as error:
            if exhausted(error):
                raise
            reason = reason_of(error)
            msg = f"AOTInductor could not compile {graph.name}: {reason}"
            raise BuildError(msg) from error
        package.write(folder / "graph.pt2", path, spec)


@dataclass(frozen=True)
class _Compiling:
    """A traced graph on its way to a package: x86-64 level, flags, settings of Inductor, folder.

    If `fresh`, cached objects of our kernels are not used.
    """

    program: torch.export.ExportedProgram
    march: str
    flags: Sequence[str]
    settings: Mapping[str, Any]
    folder: Path
    fresh: bool

    def compiled(self, source: Path) -> Path:
        """Compile a source of ours to an object file."""
        path = self.folder / f"{source.name}.o"
        kernels.compile_source(source, path, _compiler(), self.flags)
        return path

    def shared(self, source: Path) -> Path:
        """Compile a source that other graphs have too, or take its object file from the cache."""
        path = self.folder / f"{source.name}.o"
        parts = {
            "source": [source.name, source.read_text(encoding="utf-8")],
            "flags": self.flags,
            "compiler": compiler_version(),
            "torch": torch.__version__,  # its headers
        }
        what = f"aoti {path.name} for {self.march}"
        get_or_build(
            path, what, parts, lambda: self.compiled(source), makers=(kernels,), fresh=self.fresh
        )
        return path

    def package(self, objects: Sequence[Path], *, libtorch: bool) -> list[str]:
        """Compile the graph, link it with our objects, and write `graph.pt2`.

        Args:
            objects: Our object files.
            libtorch: Link to libtorch, for torch's loader; else to nothing of torch.

        Returns:
            The functions that the linker did not find, if it is not to link to libtorch.
        """
        exported = self.folder / "exported"
        interface = "AOTInductor" if libtorch else "exporter_"
        exported.write_text(f"{{ global: {interface}*; local: *; }};\n", encoding="ascii")
        linked = [f"-Wl,--version-script={exported}", *([] if libtorch else ["-Wl,-z,defs"])]
        settings = {**self.settings, "aot_inductor.link_libtorch": libtorch}
        try:
            with target_isa(self.march, [LIBRARY_FLAGS, *linked, *map(str, objects)]):
                torch._inductor.aoti_compile_and_package(
                    self.program,
                    package_path=str(self.folder / "graph.pt2"),
                    inductor_configs=settings,
                )
        except RuntimeError as error:
            missing = sorted(set(_UNDEFINED.findall(str(error))))
            if libtorch or not missing:
                raise
            return missing
        return []


def exported(
    graph: Graph, module: nn.Module, examples: tuple[Tensor, ...], weights: int = 0
) -> torch.export.ExportedProgram:
    """Trace a module whose axes may have any size from the graph's least one.

    The module's `forward` takes `*inputs`: so many weights, and the inputs of the graph.

    Where an output's axis has a size that is computed from an input's, like that of convolutions,
    the tracer asks in which order a tensor with a single row lies in memory, and would exclude
    that size. The order of one row makes no difference, so these conditions are dropped.
    """
    axes = {"inputs": (*[{}] * weights, *_dynamic(graph))}
    if not graph.least:
        return torch.export.export(module, examples, dynamic_shapes=axes, strict=False)
    settings: Any = shape_settings
    with settings.patch(backed_size_oblivious=True):
        program = torch.export.export(
            module,
            examples,
            dynamic_shapes=axes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    drop_conditions(program)
    return program


def _without_others(
    graph: Graph, program: torch.export.ExportedProgram, march: str
) -> torch.export.ExportedProgram:
    """Replace operators that no kernel serves, which traces them, for axes of any size again."""
    if not graph.least:
        return kernels.without_others(program, march)
    settings: Any = shape_settings
    with settings.patch(backed_size_oblivious=True):
        program = kernels.without_others(program, march)
    drop_conditions(program)
    return program


def drop_conditions(program: torch.export.ExportedProgram) -> None:
    for node in program.graph.find_nodes(
        op="call_function", target=torch.ops.aten._assert_scalar.default
    ):
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()


def reason_of(error: RuntimeError) -> str:
    """Return the line with the reason: a compiler's error, or the first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error:" in line), lines[0])


def require_compiler() -> None:
    """Check that the C++ compiler that Inductor calls is installed; else raise MachineError."""
    compiler = _compiler()
    if shutil.which(compiler) is None:
        msg = (
            f"aoti needs a C++ compiler, and {compiler!r} was not found.\n"
            "Install one (Debian: apt install g++) or set CXX to its path; loading needs none."
        )
        raise MachineError(msg)


def compiler_version() -> str:
    """Return the first line of the compiler's `--version`, which is part of cache keys."""
    command = [_compiler(), "--version"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    return process.stdout.partition("\n")[0]  # a broken compiler raises when it compiles


def _compiler() -> str:
    """Return the C++ compiler that Inductor calls: CXX, or g++."""
    from torch._inductor import config

    name: str = config.cpp.cxx[1]
    return name


@contextmanager
def workplace(beside: Path) -> Iterator[Path]:
    """Create a temporary folder, which is also Inductor's cache, and remove it afterwards."""
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    # The artifact's disk has room for its size; but Inductor's commands do not quote paths.
    place = beside if re.fullmatch(r"[\w./+-]+", str(beside)) else None
    with (
        tempfile.TemporaryDirectory(prefix=".aoti-", dir=place) as name,
        temporary_cache_dir(name),
    ):
        yield Path(name)


def _dynamic(graph: Graph) -> tuple[dict[int, Any], ...]:
    """Return torch.export's dynamic axes, one mapping per input; equal names have equal sizes."""
    named = [graph.dynamic.get(name, {}) for name in graph.inputs]
    sizes = {
        name: torch.export.Dim(name, min=graph.least.get(name, 1))
        for axes in named
        for name in axes.values()
    }
    return tuple({axis: sizes[name] for axis, name in axes.items()} for axes in named)


def _spec(graph: Graph, program: Any, names: Mapping[str, str]) -> Spec:
    """Describe the package's inputs, outputs and weights, for the checks in `Package`."""
    inputs, outputs = tensors_of(graph, program)
    parameters = program.graph_signature.inputs_to_parameters
    constants = {}
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in parameters and node.users:
            own, tensor = parameters[node.name], node.meta["val"]
            dtype = str(tensor.dtype).removeprefix("torch.")
            constants[own] = Constant(names[own], dtype, tuple(tensor.shape))
    return Spec(inputs, outputs, constants)


def tensors_of(
    graph: Graph, program: torch.export.ExportedProgram
) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Describe a traced graph's inputs, without weights, and its outputs."""
    inputs = {}
    for name, tensor in graph.inputs.items():
        axes = graph.dynamic.get(name, {})
        shape = [axes.get(axis, size) for axis, size in enumerate(tensor.shape)]
        inputs[name] = _described(tensor, shape, name in graph.mutated)
    results: Any = program.graph.output_node().args[0]
    own = results[len(results) - len(graph.outputs) :]  # after what is written in place
    pairs = zip(own, graph.outputs.items(), strict=True)
    outputs = {name: _described(node.meta["val"], shape) for node, (name, shape) in pairs}
    return inputs, outputs


def _described(tensor: Tensor, shape: Sequence[int | str], mutated: bool = False) -> TensorSpec:
    return TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(shape), mutated)
