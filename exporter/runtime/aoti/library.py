"""A package's native library by ctypes: the interface that `exporter_graph.h` declares."""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from exporter.errors import IntegrityError, MachineError
from exporter.runtime.aoti.spec import BITS

_VERSION, _MOST_AXES = 1, 8
_CODES = {
    **{"uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4, "float16": 5, "float32": 6},
    **{"float64": 7, "bool": 11, "bfloat16": 15},
}
_NAMES = {code: name for name, code in _CODES.items()}
# A fork has none of the threads that OpenMP started in its parent and would wait for them. A thread
# of its own starts new ones.
_PROCESS = os.getpid()


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * _MOST_AXES),
        ("axes", ctypes.c_int32),
        ("type", ctypes.c_int32),
    )


class Tensor(NamedTuple):
    """A contiguous tensor in memory: its address, its type by torch's name, its shape."""

    address: int
    dtype: str
    shape: tuple[int, ...]


Arguments: TypeAlias = "ctypes.Array[_Tensor]"


def arguments(tensors: Sequence[Tensor]) -> Arguments:
    """Describe tensors to a library."""
    made = (_Tensor * len(tensors))()
    for place, (address, dtype, shape) in zip(made, tensors, strict=True):
        place.data, place.axes, place.type = address, len(shape), _CODES[dtype]
        place.sizes[: len(shape)] = shape
    return made


class Output:
    """A result, which the library holds until this object is deleted."""

    def __init__(self, tensor: _Tensor, release: Callable[[int], None]) -> None:
        self._owner, self._release = tensor.owner, release
        self.tensor = Tensor(
            tensor.data or 0, _NAMES[tensor.type], tuple(tensor.sizes[: tensor.axes])
        )

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What `numpy.asarray` reads; bfloat16's bits are uint16."""
        dtype = self.tensor.dtype
        kind = "f" if "float" in dtype and dtype != "bfloat16" else "u" if dtype[0] in "ub" else "i"
        if dtype == "bool":
            kind = "b"
        return {
            "version": 3,
            "shape": self.tensor.shape,
            "typestr": f"<{kind}{BITS[dtype] // 8}",
            "data": (self.tensor.address, False),
        }

    def __del__(self) -> None:
        self._release(self._owner)


class Library:
    """An open library.

    Raises:
        MachineError: It cannot be loaded here.
        IntegrityError: It has another interface.
    """

    def __init__(self, code: bytes, shown: object) -> None:
        self._shown = shown
        # The file stays open: another one of the same number would pass for the same library.
        file = os.memfd_create("exporter-graph")
        with open(file, "wb", closefd=False) as memory:
            memory.write(code)
        try:
            self._functions = ctypes.CDLL(f"/proc/self/fd/{file}")
        except OSError as error:
            msg = f"{shown} cannot be loaded on this machine: {str(error).splitlines()[0]}"
            if "libgomp" in msg:
                msg += "\nInstall OpenMP's library (Debian: apt install libgomp1)."
            raise MachineError(msg) from error
        self._declare()
        graph = ctypes.c_void_p()
        self._require(self._functions.exporter_open(ctypes.byref(graph)))
        self._graph = graph

    def _declare(self) -> None:
        functions = self._functions
        try:
            version = functions.exporter_version()
        except AttributeError:
            version = None
        if version != _VERSION:
            msg = f"{self._shown} was compiled for another release of exporter: build it again"
            raise IntegrityError(msg)
        functions.exporter_num_weights.restype = ctypes.c_size_t
        functions.exporter_num_weights.argtypes = [ctypes.c_void_p]
        functions.exporter_weight_name.restype = ctypes.c_char_p
        functions.exporter_weight_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        functions.exporter_error.restype = ctypes.c_char_p
        for function in (functions.exporter_release, functions.exporter_close):
            function.restype = None
            function.argtypes = [ctypes.c_void_p]

    def _require(self, code: int) -> None:
        if code:
            said = (self._functions.exporter_error() or b"").decode("utf-8", "replace")
            msg = f"{self._shown}: {said.splitlines()[0] if said else 'the graph failed'}"
            raise RuntimeError(msg)

    def weight_names(self) -> list[str | None]:
        """Return the stored names of the weights, in order; None for one without a name."""
        count = self._functions.exporter_num_weights(self._graph)
        names = (self._functions.exporter_weight_name(self._graph, i) for i in range(count))
        return [None if name is None else name.decode() for name in names]

    def set_weights(self, weights: Sequence[Tensor]) -> None:
        """Set all weights, in the order of their names; their memory has to stay."""
        given = arguments(weights)
        self._require(
            self._functions.exporter_set_weights(self._graph, given, ctypes.c_size_t(len(given)))
        )

    def run(
        self,
        inputs: Arguments,
        num_outputs: int,
        threads: int,
        wanted: Sequence[int] | None = None,
    ) -> list[Output]:
        """Run the graph.

        Args:
            inputs: Its inputs, in order.
            num_outputs: How many outputs it has.
            threads: Number of threads.
            wanted: The places of the outputs to return; None: all.
        """
        places = range(num_outputs) if wanted is None else wanted
        if os.getpid() == _PROCESS:
            return self._run(inputs, num_outputs, threads, places)
        results: list[list[Output]] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                results.append(self._run(inputs, num_outputs, threads, places))
            except RuntimeError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def __del__(self) -> None:
        if hasattr(self, "_graph"):
            self._functions.exporter_close(self._graph)

    def _run(
        self, inputs: Arguments, num_outputs: int, threads: int, wanted: Sequence[int]
    ) -> list[Output]:
        made = (_Tensor * num_outputs)()
        self._require(
            self._functions.exporter_run(
                *(self._graph, inputs, ctypes.c_size_t(len(inputs))),
                *(made, ctypes.c_size_t(num_outputs), ctypes.c_int32(threads)),
            )
        )
        release = self._functions.exporter_release
        for place in range(num_outputs):
            if place not in wanted:
                release(made[place].owner)
        return [Output(made[place], release) for place in wanted]
