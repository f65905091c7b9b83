"""One compiled graph, called with numpy arrays.

Compiled code does not check its inputs, so that is done here. A type that numpy lacks, bfloat16, is
given and returned as its bits, uint16.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.errors import IntegrityError, MachineError
from exporter.formats import pt2
from exporter.runtime.aoti.library import Arguments, Library, Tensor, arguments
from exporter.runtime.aoti.spec import Constant, TensorSpec, parse
from exporter.runtime.aoti.weights import Weights, numpy_type

Array = NDArray[Any]

WEIGHTS = "weights.safetensors"


class Stored(Protocol):
    """Where a package's weights come from."""

    def get(self, name: str) -> tuple[str, Array] | None:
        """Return a weight's type, by torch's name, and its values; None if there is none."""
        ...


@dataclass(frozen=True)
class Bound:
    """Inputs in memory that stays where it is, as a graph takes them.

    `wanted` has the outputs to return, and their places among all.
    """

    described: Arguments
    arrays: Mapping[str, Array]
    wanted: Mapping[str, int]


class Package:
    """A compiled graph that needs no torch.

    Args:
        data: The package's bytes. They are what runs, whatever becomes of the file.
        weights: The stored weights, which are referenced and not copied.
        shown: The package's path, for messages.
        threads: Number of threads; a number that was compiled in goes before it.

    Raises:
        IntegrityError: The package is damaged, or does not fit its weights.
        MachineError: It needs torch, or cannot be loaded here.
    """

    def __init__(self, data: bytes, weights: Stored, shown: Path, threads: int) -> None:
        pt2.check_data(data, shown)
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            spec = parse(package.read(f"{shown.stem}/{pt2.SPEC}"), shown)
            if spec.needs_torch:
                msg = f"{shown} was compiled to run in torch: load the artifact where torch is"
                raise MachineError(msg)
            code = package.read(f"{shown.stem}/{pt2.LIBRARY}")
        self.spec = spec
        self._name, self._threads = shown.name, threads
        self._weights = {c.name: _weight(shown, weights, c) for c in spec.constants.values()}
        self._library = Library(code, shown)
        names = self._library.weight_names()
        if set(names) != self._weights.keys():
            msg = f"{shown} was compiled for other weights than it names: build the artifact again"
            raise IntegrityError(msg)
        dtypes = {constant.name: constant.dtype for constant in spec.constants.values()}
        self._library.set_weights(
            [_described(self._weights[name], dtypes[name]) for name in names if name is not None]
        )

    def __call__(self, inputs: Mapping[str, Array] | Bound) -> dict[str, Array]:
        """Run the graph; return the outputs, all or those that bound inputs are for.

        Args:
            inputs: Its inputs, by name, or bound. Those that are mutated are written in place.

        Raises:
            ValueError: An input is missing, or has another type or shape.
        """
        bound = inputs if isinstance(inputs, Bound) else self.bind(inputs)
        places = bound.wanted.values()
        count = len(self.spec.outputs)
        outputs = self._library.run(bound.described, count, self._threads, (*places,))
        return dict(zip(bound.wanted, map(np.asarray, outputs), strict=True))

    def bind(self, inputs: Mapping[str, Array], wanted: Sequence[str] | None = None) -> Bound:
        """Check inputs once for many calls, which read their values anew.

        Args:
            inputs: The inputs by name.
            wanted: The outputs that calls return; None: all.

        Raises:
            ValueError: An input is missing, or has another type or shape.
        """
        if inputs.keys() != self.spec.inputs.keys():
            takes, given = ", ".join(self.spec.inputs), ", ".join(inputs)
            msg = f"{self._name} takes {takes}; it was given {given}"
            raise ValueError(msg)
        axes: dict[str, int] = {}
        arrays = {n: self._fitting(n, t, inputs[n], axes) for n, t in self.spec.inputs.items()}
        dtypes = (spec.dtype for spec in self.spec.inputs.values())
        described = [_described(a, d) for a, d in zip(arrays.values(), dtypes, strict=True)]
        places = {name: place for place, name in enumerate(self.spec.outputs)}
        named = places if wanted is None else {name: places[name] for name in wanted}
        return Bound(arguments(described), arrays, named)

    def _fitting(self, name: str, spec: TensorSpec, array: Array, axes: dict[str, int]) -> Array:
        """Return the array in the type and layout that the graph was compiled for."""
        dtype = numpy_type(spec.dtype)
        fits = array.ndim == len(spec.shape) and all(
            size == (axes.setdefault(axis, size) if isinstance(axis, str) else axis)
            for size, axis in zip(array.shape, spec.shape, strict=True)
        )
        ready = array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
        # Other numbers are not the bits of bfloat16.
        wrong = spec.dtype == "bfloat16" and array.dtype != dtype
        if not fits or wrong or (spec.mutated and not (ready and array.flags.writeable)):
            msg = (
                f"{self._name}: {name} must be {spec.dtype} {list(spec.shape)}, contiguous; "
                f"it is {array.dtype} {list(array.shape)}"
            )
            raise ValueError(msg)
        return array if ready else np.require(array, dtype, ["C", "A"])


def open_packages(folder: Path, packages: Mapping[str, bytes], threads: int) -> dict[str, Package]:
    """Open an artifact's graphs, which share its weights.

    Args:
        folder: The artifact, whose weights are mapped into memory.
        packages: The verified bytes of its packages, by the files' names.
        threads: Number of threads.

    Returns:
        The graphs by name.

    Raises:
        IntegrityError: A package or the weights are damaged, or do not fit each other.
        MachineError: A package needs torch, or cannot be loaded here.
    """
    weights = Weights(folder / WEIGHTS)
    return {
        Path(name).stem: Package(data, weights, folder / name, threads)
        for name, data in packages.items()
    }


def _described(array: Array, dtype: str) -> Tensor:
    return Tensor(array.ctypes.data, dtype, array.shape)


def _weight(path: Path, weights: Stored, constant: Constant) -> Array:
    """Return a weight; raise IntegrityError if its type or shape is not as compiled."""
    found = weights.get(constant.name)
    if found is not None:
        dtype, values = found
        if (dtype, values.shape) == (constant.dtype, constant.shape) and values.flags.c_contiguous:
            return values
    there = "missing" if found is None else f"{found[0]} {list(found[1].shape)}"
    msg = (
        f"{path}: the weight {constant.name} must be {constant.dtype} {list(constant.shape)}; "
        f"it is {there}.\nBuild or fetch the artifact again."
    )
    raise IntegrityError(msg)
