"""Graphs that a family passes to a target, and the interface of built graphs.

A `Graph` is traced on the `meta` device, without weights; a target adds the weights, tensor by
tensor, under the names of the transformers model that the graph's module was cut from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from exporter.runtime.onnx import WRITTEN as WRITTEN  # re-exported for importers

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """One graph of a model.

    `module.forward` takes the tensors of `inputs` in order and returns one per entry of `outputs`.
    `dynamic` names the axes that may change between calls; `outputs` has every output's shape, with
    the same names. Tensors listed in `mutated` are written in place. If all `num_layers` layers are
    alike, `single_layer` is the same graph with only the first: its nodes between the two
    `layer_boundary` are repeated for every layer, with the layer's index in place of 0 in names. A
    graph with `weights_from` has only weights of the graph of that name, under the same names.
    `least` has the least size of those dynamic axes that do not begin at 1, by their names.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, Shape]
    mutated: tuple[str, ...] = ()
    single_layer: "Graph | None" = None
    num_layers: int = 1
    weights_from: str | None = None
    least: Mapping[str, int] = field(default_factory=dict)


@torch.library.custom_op("exporter::layer_boundary", mutates_args=())
def layer_boundary(hidden: Tensor) -> Tensor:
    """Mark the beginning of a layer and the end of the last; return the values unchanged."""
    return hidden.clone()


@layer_boundary.register_fake
def _(hidden: Tensor) -> Tensor:
    return torch.empty_like(hidden)


def mark(hidden: Tensor, num_layers: int | None) -> Tensor:
    """Mark a layer's boundary in a graph whose layer is repeated, that is, with `num_layers`."""
    marked: Tensor = hidden if num_layers is None else layer_boundary(hidden)
    return marked


def alike(layers: nn.ModuleList, apart_from: str | None = None) -> bool:
    """Return whether all layers have the same modules, with equal weight shapes and types.

    A module called `apart_from` in a layer, which the graph does not use inside it, may differ.
    """
    kinds = {
        tuple(
            (name, type(m), m.extra_repr())
            for name, m in layer.named_modules()
            if name != apart_from
        )
        + tuple(
            (name, t.shape, t.dtype)
            for name, t in layer.state_dict().items()
            if name.rpartition(".")[0] != apart_from
        )
        for layer in layers
    }
    return len(kinds) == 1


def single_layer_of(graph: Graph) -> Graph:
    """Return the graph with the inputs and outputs of its first layer only."""
    return replace(
        graph,
        inputs={name: t for name, t in graph.inputs.items() if layer_of(name) < 1},
        outputs={name: shape for name, shape in graph.outputs.items() if layer_of(name) < 1},
    )


def layer_of(name: str) -> int:
    """Return the layer index in a cache tensor's name (past_key_values.3.decoder.key), or -1."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) > 1 else -1


class GraphFunction(Protocol):
    """A built graph: takes named tensors and returns the wanted outputs (default: all) by name.

    All tensors are on `device`.
    """

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]: ...


Replay = Callable[[], dict[str, Tensor]]
"""Calls a function again with the same tensors, whose contents may be others by now."""


@runtime_checkable
class CapturedFunction(GraphFunction, Protocol):
    """A function that can be recorded, so that the host starts all of it at once."""

    def capture(self, inputs: Mapping[str, Tensor]) -> Replay:
        """Record a call with these tensors; it may be run several times meanwhile.

        A replay returns the same tensors each time, with other contents.
        """
        ...


class FixedInputs(dict[str, Tensor]):
    """Inputs that a function is called with again and again: told apart by identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class RecordedFunction:
    """Calls a function, recorded for each `FixedInputs` at its first call with them."""

    def __init__(self, function: CapturedFunction) -> None:
        self.device = function.device
        self._function = function
        self._replays: WeakKeyDictionary[FixedInputs, Replay] = WeakKeyDictionary()

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        if not isinstance(inputs, FixedInputs):
            return self._function(inputs, wanted)
        if inputs not in self._replays:
            self._replays[inputs] = self._function.capture(inputs)
        outputs = self._replays[inputs]()
        return outputs if wanted is None else {name: outputs[name] for name in wanted}


def recorded(function: GraphFunction) -> GraphFunction:
    """Return a function that is recorded, if it can be."""
    return RecordedFunction(function) if isinstance(function, CapturedFunction) else function


def parameter_names(graph: Graph, model: nn.Module) -> dict[str, str]:
    """Map each parameter name of the graph's module to its name in `model`.

    The graph's module holds the model's own tensors under other names, so they are matched by
    identity.
    """
    names = {
        id(tensor): name
        for tensors in (model.named_buffers, model.named_parameters)
        for name, tensor in tensors(remove_duplicate=False)
    }
    own = [
        *graph.module.named_parameters(remove_duplicate=False),
        *graph.module.named_buffers(),
    ]
    return {name: names[id(tensor)] for name, tensor in own}
