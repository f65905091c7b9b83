"""Graphs cut at their layers, of which one is built and called for every layer.

An unrolled graph of 32 layers takes an ahead-of-time compiler 32 times as long as one layer. The
calls between layers cost microseconds, and nothing at all where they are captured in a CUDA graph.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.families.graph import Graph, GraphFunction


@dataclass(frozen=True)
class LayeredGraph:
    """A graph in three parts: what is before its layers, one layer, and what is after them.

    Values go from part to part by their names, beside the inputs of the whole: `layer` takes and
    returns `hidden` [..., width], and what `before` returns is the same for all layers. Inputs and
    outputs of `layer` that belong to one layer have its index in their names, 0 as in
    `cache.0.key`, and so do the names of its parameters in the model. A layer that returns no
    `hidden` leaves it as it is: then there may be nothing before the layers, or after them.

    Attributes:
        name: The name of the whole.
        before: Takes inputs of the whole; returns `hidden`, and what all layers share. None:
            `hidden` is an input of the whole.
        layer: The first of `num_layers` layers, which are alike.
        after: Takes `hidden`, inputs of the whole and outputs of `before`; returns outputs. None:
            all outputs are the layers'.
        num_layers: The number of layers.
    """

    name: str
    before: Graph | None
    layer: Graph
    after: Graph | None
    num_layers: int

    @property
    def parts(self) -> tuple[Graph, ...]:
        """The parts, in the order in which they are called."""
        return tuple(part for part in (self.before, self.layer, self.after) if part is not None)

    def join(
        self,
        before: GraphFunction | None,
        layers: Sequence[GraphFunction],
        after: GraphFunction | None,
    ) -> "LayeredFunction":
        """Return the built parts as one function.

        Args:
            before: The built part before the layers, if there is one.
            layers: A function for each layer, which takes the names of the first one's tensors.
            after: The built part after the layers, if there is one.
        """
        assert len(layers) == self.num_layers
        assert (before is None) == (self.before is None)
        assert (after is None) == (self.after is None)
        return LayeredFunction(self, before, layers, after)


def in_layer(name: str, index: int) -> str:
    """Return the name of a first layer's tensor in another layer, as `cache.2.key`."""
    return name.replace(".0.", f".{index}.", 1)


class LayeredFunction:
    """The built parts of a graph, called one after another: a `GraphFunction`."""

    def __init__(
        self,
        graph: LayeredGraph,
        before: GraphFunction | None,
        layers: Sequence[GraphFunction],
        after: GraphFunction | None,
    ) -> None:
        self.device: torch.device = layers[0].device
        self._before, self._layers, self._after = before, layers, after
        self._first = tuple(graph.before.inputs) if graph.before else ()
        self._last = tuple(graph.after.inputs) if graph.after else ()
        self._taken = [_renamed(graph.layer.inputs, index) for index in range(len(layers))]
        self._given = [_renamed(graph.layer.outputs, index) for index in range(len(layers))]

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Call all parts; return the outputs of the layers and of the last part, by name."""
        values, outputs = {**inputs}, dict[str, Tensor]()
        if self._before is not None:
            values.update(self._before({name: inputs[name] for name in self._first}))
        for layer, taken, given in zip(self._layers, self._taken, self._given, strict=True):
            found = layer({own: values[name] for own, name in taken.items()})
            named = {given[own]: tensor for own, tensor in found.items()}
            values["hidden"] = named.pop("hidden", values["hidden"])
            outputs.update(named)
        if self._after is not None:
            outputs.update(self._after({name: values[name] for name in self._last}))
        return outputs if wanted is None else {name: outputs[name] for name in wanted}


def _renamed(names: Iterable[str], index: int) -> dict[str, str]:
    """Map names of the first layer's tensors to those of the layer of that index."""
    return {name: in_layer(name, index) for name in names}
