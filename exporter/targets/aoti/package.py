"""Compiled packages on disk: write, describe and call them.

A `.pt2` is a zip with a native library. Its members are checked by `exporter.formats.pt2` before
they are opened. The library does not check its inputs, so that is done here, in Python.
"""

import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.errors import IntegrityError, MachineError, exhausted
from exporter.formats import pt2
from exporter.runtime.aoti.library import Library, Output, arguments
from exporter.runtime.aoti.library import Tensor as InMemory
from exporter.runtime.aoti.spec import Constant, Spec, parse
from exporter.system.accelerators import Device
from exporter.targets.aoti.devices import SUPPORT, Support

Run = Callable[[list[Tensor]], Sequence[Tensor]]


class PackageFunction:
    """A compiled graph, called with named tensors: a `GraphFunction`.

    Compiled code does not check its inputs, so this class does.

    Args:
        name: The package's name, for messages.
        spec: Its description.
        run: Calls its code with the inputs in order.
        support: The device that it computes on.
    """

    def __init__(self, name: str, spec: Spec, run: Run, support: Support) -> None:
        self._name = name
        self._support = support
        self.device = self._support.torch_device
        self._inputs = {name: (getattr(torch, t.dtype), t) for name, t in spec.inputs.items()}
        self._outputs = tuple(spec.outputs)
        self._run = run

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        if inputs.keys() != self._inputs.keys():
            msg = f"{self._name} takes {', '.join(self._inputs)}; it was given {', '.join(inputs)}"
            raise ValueError(msg)
        axes: dict[str, int] = {}
        tensors = [self._fitting(name, inputs[name], axes) for name in self._inputs]
        results = dict(zip(self._outputs, self._run(tensors), strict=True))
        return results if wanted is None else {name: results[name] for name in wanted}

    def _fitting(self, name: str, tensor: Tensor, axes: dict[str, int]) -> Tensor:
        """Return the tensor in the type and layout that the graph was compiled for."""
        dtype, spec = self._inputs[name]
        fits = tensor.ndim == len(spec.shape) and all(
            size == (axes.setdefault(axis, size) if isinstance(axis, str) else axis)
            for size, axis in zip(tensor.shape, spec.shape, strict=True)
        )
        ready = tensor.dtype == dtype and self._support.holds(tensor) and tensor.is_contiguous()
        if not fits or (spec.mutated and not ready):
            msg = (
                f"{self._name}: {name} must be {spec.dtype} {list(spec.shape)}, contiguous; "
                f"it is {tensor.dtype} {list(tensor.shape)}"
            )
            raise ValueError(msg)
        return tensor if ready else self._support.take(tensor, dtype)


class Package(PackageFunction):
    """A compiled graph with its weights.

    It references `weights` (by the names of the spec's constants, on the device) without copying
    them.

    `path` is the package to open, which may be removed then; `shown` is its name in messages.
    """

    def __init__(
        self,
        path: Path,
        spec: Spec,
        weights: Mapping[str, Tensor],
        device: Device = "cpu",
        shown: Path | None = None,
    ) -> None:
        opened = _opened_in_torch if spec.needs_torch else _opened
        run = opened(path, spec, weights, shown or path)
        super().__init__(path.name, spec, run, SUPPORT[device])


def _opened(path: Path, spec: Spec, weights: Mapping[str, Tensor], shown: Path) -> Run:
    """Open a library that needs no torch; return a call of it."""
    with zipfile.ZipFile(path) as package:
        library = Library(package.read(f"{path.stem}/{pt2.LIBRARY}"), shown)
    stored = {c.name: stored_weight(shown, weights, c) for c in spec.constants.values()}
    dtypes = {c.name: c.dtype for c in spec.constants.values()}
    names = library.weight_names()
    _require_same(shown, names, stored)
    library.set_weights([_described(stored[n], dtypes[n]) for n in names if n is not None])
    types = [spec.dtype for spec in spec.inputs.values()]

    def run(tensors: list[Tensor], _referenced: object = stored) -> Sequence[Tensor]:
        given = arguments([_described(t, d) for t, d in zip(tensors, types, strict=True)])
        outputs = library.run(given, len(spec.outputs), torch.get_num_threads())
        return [_taken(output) for output in outputs]

    return run


def _described(tensor: Tensor, dtype: str) -> InMemory:
    return InMemory(tensor.data_ptr(), dtype, tuple(tensor.shape))


def _taken(output: Output) -> Tensor:
    """Return an output as a tensor, without copying it."""
    return torch.from_numpy(np.asarray(output)).view(getattr(torch, output.tensor.dtype))


def _opened_in_torch(path: Path, spec: Spec, weights: Mapping[str, Tensor], shown: Path) -> Run:
    """Open a package that calls libtorch; return a call of it."""
    own = {name: stored_weight(shown, weights, c) for name, c in spec.constants.items()}
    loader = opened_loader(path, shown)
    _require_same(shown, loader.get_constant_fqns(), own)
    loader.load_constants(own, False, True, True)
    run: Run = loader.boxed_run
    return run


def opened_loader(path: Path, shown: Path, *, graphs: bool = False, index: int = -1) -> Any:
    """Open a package by torch's loader.

    Args:
        path: The package.
        shown: Its name in messages.
        graphs: Whether its calls may be captured in a CUDA graph: they then wait for nothing, and
            may not overlap.
        index: The number of the device.

    Raises:
        MachineError: It cannot be loaded here.
    """
    try:
        # `aoti_load_package` calls this too, but also runs a compiler, only for a warning.
        return torch._C._aoti.AOTIModelPackageLoader(str(path), "model", graphs, 1, index)
    except RuntimeError as error:
        if exhausted(error):
            raise
        msg = f"{shown} cannot be loaded on this machine: {str(error).splitlines()[0]}"
        raise MachineError(msg) from error


def require_torch(folder: Path, built: str) -> None:
    """Raise MachineError if this is not the torch that packages linked to it were compiled for."""
    built, here = (_minor(version) for version in (built, torch.__version__))
    if built != here:
        msg = (
            f"{folder} was compiled for torch {built}, and this is torch {here}.\n"
            f"Install torch {built} or build the artifact again."
        )
        raise MachineError(msg)


def _minor(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:2])


def _require_same(shown: Path, compiled: Sequence[str | None], told: Mapping[str, Tensor]) -> None:
    if set(compiled) != told.keys():
        msg = f"{shown} was compiled for other weights than it names: build the artifact again"
        raise IntegrityError(msg)


def stored_weight(path: Path, weights: Mapping[str, Tensor], constant: Constant) -> Tensor:
    """Return a weight; raise IntegrityError if its type or shape is not as compiled."""
    weight = weights.get(constant.name)
    wanted = getattr(torch, constant.dtype), constant.shape
    if (
        weight is None
        or (weight.dtype, tuple(weight.shape)) != wanted
        or not weight.is_contiguous()
    ):
        there = "missing" if weight is None else f"{weight.dtype} {list(weight.shape)}"
        msg = (
            f"{path}: the weight {constant.name} must be {constant.dtype} {list(constant.shape)}; "
            f"it is {there}.\nBuild or fetch the artifact again."
        )
        raise IntegrityError(msg)
    return weight


def write(compiled: Path, target: Path, spec: Spec) -> None:
    """Copy the members that loading needs from torch's package, with fixed names and times.

    The generated sources are dropped: they are large, and contain paths of this machine. The
    library is compressed, to about a third: loaders copy it into a file of its own anyway.
    """
    with zipfile.ZipFile(compiled) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            inner = _constant(info.filename.partition("/")[2])
            if inner is not None:
                with old.open(info) as data, new.open(_member(target, inner), "w") as out:
                    shutil.copyfileobj(data, out, 1 << 20)
        new.writestr(_member(target, pt2.SPEC), spec.as_json())


def read_spec(path: Path) -> Spec:
    """Check a package's members, without opening native code, and read its description.

    Raises:
        IntegrityError: The package is not one that `write` writes.
    """
    pt2.check(path)
    with zipfile.ZipFile(path) as package:
        return parse(package.read(f"{path.stem}/{pt2.SPEC}"), path)


def _constant(inner: str) -> str | None:
    """Return the new name of a member of torch's package; None if it is dropped."""
    if inner.endswith(".wrapper.so"):
        return pt2.LIBRARY
    if inner.endswith(".wrapper_metadata.json"):
        return pt2.DESCRIPTION
    return inner if inner in pt2.FIXED else None


def _member(package: Path, inner: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{package.stem}/{inner}", date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED if inner == pt2.LIBRARY else zipfile.ZIP_STORED
    return info
