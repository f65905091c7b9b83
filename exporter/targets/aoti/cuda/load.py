"""Open the packages of a GPU, and join them into graphs with the weights of their layers."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact import store
from exporter.artifact.manifest import Manifest
from exporter.errors import IntegrityError, MachineError
from exporter.families.base import Family
from exporter.families.graph import Graph, GraphFunction
from exporter.families.layered import LayeredGraph, in_layer
from exporter.runtime.aoti.spec import Constant, Spec
from exporter.system.accelerators import require_gpu
from exporter.system.hardware import require_features
from exporter.system.tempdirs import scratch
from exporter.targets.aoti.cuda.capture import Capture, CapturedStep, naming
from exporter.targets.aoti.devices import SUPPORT, Support
from exporter.targets.aoti.options import Options
from exporter.targets.aoti.package import (
    PackageFunction,
    opened_loader,
    read_spec,
    require_torch,
    stored_weight,
)

WEIGHTS = "weights.safetensors"
_BEFORE, _LAYER, _AFTER = _PARTS = ("before", "layer", "after")
_STEP = "step_"
_NARROW = "cross.0.key_scale"


def load(folder: Path, manifest: Manifest, family: Family) -> Any:
    """Check the machine and the packages, then open them and join them into a model.

    Steps are captured in CUDA graphs when each number of rows is first decoded, so that who needs
    one of them does not wait for all.

    Raises:
        MachineError: The card, its driver, the CPU or torch are not as compiled for.
        IntegrityError: A package is damaged or does not fit its weights.
    """
    _require(folder, manifest)
    packages = [file for file in manifest.files if file.path.endswith(".pt2")]
    with scratch() as place:  # what is checked is what runs, whoever else may write to the folder
        for file in packages:
            (place / file.path).write_bytes(store.read_verified(folder, file))
        functions = open_functions(place, folder, SUPPORT["cuda"])
    dtype = getattr(torch, str(Options.model_validate(manifest.options).dtype))
    return family.assemble(folder, functions.by_name, dtype, narrow=functions.narrow)


def _require(folder: Path, manifest: Manifest) -> None:
    needs = manifest.needs
    require_gpu(needs.gpu.as_needs() if needs.gpu else None, str(folder))
    require_features(needs.cpu_features, str(folder))
    require_torch(folder, manifest.versions.get("torch", "?"))
    here = torch.version.cuda
    wanted = needs.gpu.cuda if needs.gpu else "?"
    if here is None or here.partition(".")[0] != wanted.partition(".")[0]:
        other = "has no CUDA" if here is None else f"is for CUDA {here}"
        msg = (
            f"{folder} was compiled for CUDA {wanted}; this torch {torch.__version__} {other}.\n"
            f"Install torch for CUDA {wanted.partition('.')[0]}: see "
            "https://pytorch.org/get-started/locally"
        )
        raise MachineError(msg)
    if not torch.cuda.is_available():
        msg = (
            f"{folder} needs a GPU, and torch finds none, although its driver does.\n"
            "See what `python -c 'import torch; torch.cuda.init()'` says."
        )
        raise MachineError(msg)


@dataclass(frozen=True)
class Functions:
    """Open graphs by name, and whether they keep keys and values of the audio in int8."""

    by_name: dict[str, GraphFunction]
    narrow: bool


def open_functions(place: Path, folder: Path, support: Support) -> Functions:
    """Open all packages of a folder.

    Args:
        place: The folder of the packages.
        folder: The artifact, whose weights are read, straight to the device.
        support: The device.

    Raises:
        MachineError: A package cannot be loaded here.
        IntegrityError: A package is damaged or does not fit the weights.
    """
    specs = {path.stem: read_spec(path) for path in sorted(place.glob("*.pt2"))}
    weights = _read_weights(folder / WEIGHTS, support.torch_device)
    lock = threading.RLock()
    parts = {
        name: Part(place / f"{name}.pt2", spec, support, folder / f"{name}.pt2", lock)
        for name, spec in specs.items()
    }
    whole = {name.rpartition("_")[0] for name in parts if name.endswith(f"_{_LAYER}")}
    functions: dict[str, GraphFunction] = {name: _joined(name, parts, weights) for name in whole}
    functions |= {
        name: part.bound(weights)
        for name, part in parts.items()
        if name.rpartition("_")[0] not in whole or name.rpartition("_")[2] not in _PARTS
    }
    if support.captures:
        capture = Capture(support.torch_device, lock)
        steps = {name: step for name, step in functions.items() if name.startswith(_STEP)}
        functions |= {n: CapturedStep(n, step, capture) for n, step in steps.items()}
    return Functions(functions, any(_NARROW in spec.inputs for spec in specs.values()))


def _read_weights(path: Path, device: torch.device) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device=str(device)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class Part:
    """An open package, to be called with the weights of one layer or another.

    Args:
        path: The package, which may be removed then.
        spec: Its description.
        support: The device.
        shown: Its name in messages.
        lock: Held while it runs: calls of one model share memory.
    """

    def __init__(
        self,
        path: Path,
        spec: Spec,
        support: Support,
        shown: Path,
        lock: AbstractContextManager[Any],
    ) -> None:
        if not spec.passed:
            msg = f"{shown} holds its weights, and is none of a GPU: build the artifact again"
            raise IntegrityError(msg)
        self.spec = spec
        self._shown, self._support, self._lock = shown, support, lock
        index = support.torch_device.index
        single = support.captures
        self._loader = opened_loader(
            path, shown, graphs=single, index=-1 if index is None else index
        )

    def layers(self, weights: Mapping[str, Tensor]) -> int:
        """Return how many layers have weights for it."""
        first = next(iter(self.spec.constants.values()))
        count = 1
        while in_layer(first.name, count) != first.name and in_layer(first.name, count) in weights:
            count += 1
        return count

    def bound(self, weights: Mapping[str, Tensor], layer: int = 0) -> PackageFunction:
        """Return its function with the weights of a layer.

        Raises:
            IntegrityError: A weight is missing, or has another type or shape.
        """
        own = [stored_weight(self._shown, weights, _of_layer(c, layer)) for c in self._constants]

        def run(tensors: list[Tensor]) -> Sequence[Tensor]:
            with self._lock:
                return self._run([*own, *tensors])

        return PackageFunction(self._shown.name, self.spec, run, self._support)

    @property
    def _constants(self) -> Sequence[Constant]:
        return [*self.spec.constants.values()]

    def _run(self, tensors: list[Tensor]) -> Sequence[Tensor]:
        with naming(str(self._shown)):
            results: Sequence[Tensor] = self._loader.boxed_run(tensors)
        return results


def _of_layer(constant: Constant, layer: int) -> Constant:
    name = in_layer(constant.name, layer) if layer else constant.name
    return Constant(name, constant.dtype, constant.shape)


def _joined(name: str, parts: Mapping[str, Part], weights: Mapping[str, Tensor]) -> GraphFunction:
    """Return a layered graph of open packages as one function."""
    before, layer, after = (parts.get(f"{name}_{part}") for part in _PARTS)
    assert layer is not None
    count = layer.layers(weights)
    graph = LayeredGraph(
        name,
        None if before is None else _described(before.spec),
        _described(layer.spec),
        None if after is None else _described(after.spec),
        count,
    )
    return graph.join(
        None if before is None else before.bound(weights),
        [layer.bound(weights, index) for index in range(count)],
        None if after is None else after.bound(weights),
    )


def _described(spec: Spec) -> Graph:
    """Return a graph with the names of a package's tensors, and nothing to trace."""
    inputs = {name: torch.empty(0, device="meta") for name in spec.inputs}
    outputs = {name: tensor.shape for name, tensor in spec.outputs.items()}
    return Graph("", nn.Module(), inputs, {}, outputs)
