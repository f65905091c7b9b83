"""Open a graph in onnxruntime, and run it on arrays that are bound once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from exporter.errors import IntegrityError, exhausted
from exporter.runtime.onnx import WRITTEN, cuda
from exporter.system.signals import time_limit

Array = NDArray[Any]
_Done = TypeVar("_Done")

# A call of a graph takes at most this long, with all its weights used on a slow machine.
_CALL_S, _BYTES_PER_S = 60.0, 1e6
Providers = Sequence[str | tuple[str, Mapping[str, str]]]
"""onnxruntime's execution providers, the preferred one first, with their options if they have any.
"""

_CPU = ("CPUExecutionProvider",)
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
_TYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}


@dataclass(frozen=True)
class Value:
    """An input or output; axes of no fixed size are named."""

    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Bound:
    """A graph's inputs and outputs in arrays that stay where they are.

    Attributes:
        outputs: The outputs that are not inputs written in place, by name.
        options: onnxruntime's options of a call; None: the usual ones.
    """

    binding: Any
    arrays: Mapping[str, Any]
    outputs: Mapping[str, Any]
    options: Any = None


def call_limit_s(size_bytes: int) -> float:
    """Return the seconds that a call of a graph may take in an artifact of this size."""
    return _CALL_S + size_bytes / _BYTES_PER_S


def open_graphs(
    contents: Mapping[Path, bytes],
    threads: int,
    meanwhile: Callable[[], _Done],
    *,
    providers: Callable[[Path], Providers] = lambda _: _CPU,
    limit_s: float = 3600.0,
) -> tuple[dict[Path, OpenGraph], _Done]:
    """Open graphs beside each other: packing weights takes one core for each graph.

    Args:
        contents: The content of each file, beside which its external data is.
        threads: Number of threads, of opening and of each graph.
        meanwhile: Is called while they are opened.
        providers: Returns the execution providers for a file's graph.
        limit_s: Seconds that opening all, and each call, may take in a step's process.

    Returns:
        The graphs, and what `meanwhile` returned.

    Raises:
        IntegrityError: A file is not a graph that onnxruntime can run.
        MachineError: The preferred provider cannot be used.
    """
    # Those with the most nodes have the most weights, and take longest.
    ordered = sorted(contents, key=lambda path: len(contents[path]), reverse=True)
    with time_limit(limit_s), ThreadPoolExecutor(threads, "opening") as pool:
        opening = {
            path: pool.submit(_session, path, contents[path], threads, providers(path))
            for path in ordered
        }
        done = meanwhile()
        opened = {path: OpenGraph(opening[path].result(), path, limit_s) for path in contents}
    return opened, done


def open_graph(
    path: Path,
    content: bytes,
    threads: int,
    *,
    providers: Providers = _CPU,
    limit_s: float = 3600.0,
) -> OpenGraph:
    """Open a graph.

    Args:
        path: Its file, beside which its external data is.
        content: What is in it.
        threads: Number of threads.
        providers: The execution providers.
        limit_s: Seconds that opening, and each call, may take in a step's process.

    Raises:
        IntegrityError: The file is not a graph that onnxruntime can run.
        MachineError: The preferred provider cannot be used.
    """
    with time_limit(limit_s):
        session = _session(path, content, threads, providers)
    return OpenGraph(session, path, limit_s)


def _session(path: Path, content: bytes, threads: int, providers: Providers) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin long take the cores of the other sessions, and those that sleep at once
    # wake late. In ms, with no spinning, 50 us, and no end: a token of whisper-small 12.6, 9.1,
    # 9.0; a greedy clip of the demo 15.9, 15.7, 32.5.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # A pattern of memory is planned from a first call, beside what that call has taken already.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        options.add_session_config_entry(_DATA_FOLDER, str(path.parent.absolute()))
        # Without fallback, onnxruntime neither prints nor goes on with another provider.
        session = onnxruntime.InferenceSession(
            content, options, providers=[*providers], enable_fallback=0
        )
    except Exception as error:  # the base of onnxruntime's
        if exhausted(error):
            raise
        if (machine := cuda.failed(error)) is not None:
            raise machine from error
        msg = f"{path} is no graph for onnxruntime {onnxruntime.__version__}: {error}"
        raise IntegrityError(msg.splitlines()[0][:500]) from error
    if providers[0] not in _CPU and (refused := cuda.refused(session)) is not None:
        raise refused
    return session


@cache
def _share_memory() -> None:
    """Let the graphs of this process, which run one after another, take memory from one arena."""
    kind, use = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, use)
    onnxruntime.create_and_register_allocator(info, None)


class OpenGraph:
    """A graph in onnxruntime; `session` is its own object for it."""

    def __init__(self, session: Any, path: Path, limit_s: float) -> None:
        self.session = session
        self._path = path
        self._limit_s = limit_s

    @property
    def inputs(self) -> dict[str, Value]:
        """The inputs by name, in order."""
        return _values(self.session.get_inputs())

    @property
    def outputs(self) -> dict[str, Value]:
        """The outputs by name, in order."""
        return _values(self.session.get_outputs())

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Run a graph, which may be anybody's, in limited time; tell its errors as the file's."""
        try:
            with time_limit(self._limit_s):
                yield
        except Exception as error:  # the base of onnxruntime's
            if exhausted(error):
                raise
            if (machine := cuda.failed(error)) is not None:
                raise machine from error
            msg = f"{self._path} cannot be run: {error}"
            raise IntegrityError(msg.splitlines()[0][:500]) from error

    def bind(
        self,
        arrays: Mapping[str, Any],
        place: Callable[[Any, str, Any], None] | None = None,
        graph: int | None = None,
    ) -> Bound:
        """Bind contiguous arrays, by name, as the inputs and outputs of later calls.

        An input that the graph writes in place needs no array for its output. Any other output
        without an array is not given.

        Args:
            arrays: Arrays of numpy, or what `place` takes.
            place: Binds one array by onnxruntime's `bind_input` or `bind_output` and a name.
            graph: The number of the CUDA graph that the call is captured as; -1: of none.
        """
        binding, outputs = self.session.io_binding(), {}
        place, options = place or _bind, None
        if graph is not None:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(graph))
        for name in self.inputs:
            place(binding.bind_input, name, arrays[name])
        for name in self.outputs:
            source = name.removesuffix(WRITTEN)
            if source not in arrays:
                continue
            place(binding.bind_output, name, arrays[source])
            if source == name:
                outputs[name] = arrays[name]
        return Bound(binding, arrays, outputs, options)

    def __call__(self, given: Mapping[str, Array] | Bound) -> Mapping[str, Array]:
        """Run the graph; outputs of bound arrays are valid until the next call with them."""
        if isinstance(given, Bound):
            with self.bounded():
                self.session.run_with_iobinding(given.binding, given.options)
            return given.outputs
        names = [output.name for output in self.session.get_outputs()]
        with self.bounded():
            return dict(zip(names, self.session.run(names, dict(given)), strict=True))


def _bind(bind: Any, name: str, array: Array) -> None:
    assert array.flags.c_contiguous, name
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _values(listed: Sequence[Any]) -> dict[str, Value]:
    return {each.name: Value(tuple(each.shape), _TYPES[each.type]) for each in listed}
