"""What a family hands to a target: graphs to trace, and how to call them once they are built.

A `Graph` is traced on the `meta` device, without weights; a target fills the weights in, tensor by
tensor, under the names of the transformers model that the graph's module was cut from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """One graph of a model.

    `module.forward` takes the tensors of `inputs` in order and returns one per entry of `outputs`.
    `dynamic` names the axes that may change between calls; `outputs` gives every output's shape,
    with the same names. Tensors listed in `mutated` are written in place.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, Shape]
    mutated: tuple[str, ...] = ()


class GraphFunction(Protocol):
    """A built graph: named tensors in, the wanted outputs (default: all) by name out."""

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]: ...


def parameter_names(graph: Graph, model: nn.Module) -> dict[str, str]:
    """Map each parameter name of the graph's module to its name in `model`.

    The graph's module holds the model's own tensors under another path, so identity decides.
    """
    names = {
        id(tensor): name
        for tensors in (model.named_buffers, model.named_parameters)
        for name, tensor in tensors(remove_duplicate=False)
    }
    found = [*graph.module.named_parameters(remove_duplicate=False), *graph.module.named_buffers()]
    return {name: names[id(tensor)] for name, tensor in found}
