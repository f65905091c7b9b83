"""Compiled packages on disk: write, describe and call them.

A `.pt2` is a zip with a native library. Its members are checked by `exporter.formats.pt2` before
they are opened; the library trusts its caller blindly, so its inputs are checked here, in Python.
"""

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from exporter.errors import IntegrityError, MachineError
from exporter.formats import pt2
from exporter.system.accelerators import Device
from exporter.targets.aoti.devices import SUPPORT

# What a description raises that is not one.
_NO_SPEC = (
    *(zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError, AttributeError),
    RecursionError,
)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a package takes or gives; text in the shape names a dynamic axis."""

    dtype: str
    shape: tuple[int | str, ...]
    mutated: bool = False


@dataclass(frozen=True)
class Constant:
    """A weight that a package uses: the name it is found under, and what it must be."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """What a package takes and gives, in order, and the weights it uses, all by its own names."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    constants: Mapping[str, Constant]


class Package:
    """A compiled graph. Compiled code trusts its caller blindly, so what it gets is checked here.

    It keeps `weights` (by the names of the spec's constants, on the device) and works on them where
    they lie.
    """

    def __init__(
        self, path: Path, spec: Spec, weights: Mapping[str, Tensor], device: Device = "cpu"
    ) -> None:
        self._name = path.name
        self._support = SUPPORT[device]
        self.device = self._support.torch_device
        self._weights = {own: _weight(path, weights, c) for own, c in spec.constants.items()}
        self._inputs = {name: (getattr(torch, t.dtype), t) for name, t in spec.inputs.items()}
        self._outputs = tuple(spec.outputs)
        try:
            # What `aoti_load_package` calls in the end; that one runs a compiler for a warning.
            self._loader = torch._C._aoti.AOTIModelPackageLoader(
                str(path), "model", False, 1, self._support.loader_index
            )
        except RuntimeError as error:
            msg = f"{path} cannot be loaded on this machine: {str(error).splitlines()[0]}"
            raise MachineError(msg) from error
        if set(self._loader.get_constant_fqns()) != self._weights.keys():
            msg = f"{path} was compiled for other weights than it names: build the artifact again"
            raise IntegrityError(msg)
        self._loader.load_constants(self._weights, False, True, True)

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        if inputs.keys() != self._inputs.keys():
            msg = f"{self._name} takes {', '.join(self._inputs)}; it was given {', '.join(inputs)}"
            raise ValueError(msg)
        axes: dict[str, int] = {}
        tensors = [self._fitting(name, inputs[name], axes) for name in self._inputs]
        results = dict(zip(self._outputs, self._loader.boxed_run(tensors), strict=True))
        return results if wanted is None else {name: results[name] for name in wanted}

    def _fitting(self, name: str, tensor: Tensor, axes: dict[str, int]) -> Tensor:
        """The tensor in the type and layout that the graph was compiled for."""
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


def _weight(path: Path, weights: Mapping[str, Tensor], constant: Constant) -> Tensor:
    """A weight as the package was compiled for it; raise IntegrityError where it is another."""
    found = weights.get(constant.name)
    wanted = getattr(torch, constant.dtype), constant.shape
    if found is None or (found.dtype, tuple(found.shape)) != wanted or not found.is_contiguous():
        there = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
        msg = (
            f"{path}: the weight {constant.name} must be {constant.dtype} {list(constant.shape)}; "
            f"it is {there}.\nBuild or fetch the artifact again."
        )
        raise IntegrityError(msg)
    return found


def write(compiled: Path, target: Path, spec: Spec) -> None:
    """Keep what loading needs of torch's package, under constant names and times.

    The generated sources are dropped: they are large, and name this machine's folders.
    """
    with zipfile.ZipFile(compiled) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            inner = _constant(info.filename.partition("/")[2])
            if inner is not None:
                with old.open(info) as data, new.open(_member(target, inner), "w") as out:
                    shutil.copyfileobj(data, out, 1 << 20)
        new.writestr(_member(target, pt2.SPEC), json.dumps(asdict(spec), indent=1))


def read_spec(path: Path) -> Spec:
    """Check a package's members, without opening native code, and read its description.

    Raises IntegrityError for anything that `write` does not write.
    """
    pt2.check(path)
    try:
        with zipfile.ZipFile(path) as package:
            sides = json.loads(package.read(f"{path.stem}/{pt2.SPEC}"))
        inputs, outputs = (
            {
                name: TensorSpec(_dtype(t["dtype"]), tuple(t["shape"]), t["mutated"])
                for name, t in sides[side].items()
            }
            for side in ("inputs", "outputs")
        )
        constants = {
            own: Constant(c["name"], _dtype(c["dtype"]), tuple(c["shape"]))
            for own, c in sides["constants"].items()
        }
    except _NO_SPEC as error:
        msg = f"{path} is not a package of ours ({error}): build or fetch the artifact again"
        raise IntegrityError(msg) from error
    return Spec(inputs, outputs, constants)


def _dtype(name: str) -> str:
    """The name of one of torch's types, and of nothing else that torch has."""
    if not isinstance(getattr(torch, name, None), torch.dtype):
        msg = f"no type {name!r}"
        raise ValueError(msg)
    return name


def _constant(inner: str) -> str | None:
    """The name under which a member of torch's package is kept."""
    if inner.endswith(".wrapper.so"):
        return pt2.LIBRARY
    if inner.endswith(".wrapper_metadata.json"):
        return pt2.DESCRIPTION
    return inner if inner in pt2.FIXED else None


def _member(package: Path, inner: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{package.stem}/{inner}", date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return info
