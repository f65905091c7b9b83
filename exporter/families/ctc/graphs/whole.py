"""The only graph of a CTC model: its input to logits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.ctc.graphs.layers import core
from exporter.families.ctc.graphs.wavlm import TABLE
from exporter.families.graph import Graph, alike

GRAPH, OUTPUT = "model", "logits"

Compute = Callable[[Any, Tensor, int | None], Tensor]
"""Returns the logits of a model for its input, with so many layers or all."""


class Logits(nn.Module):
    """A model's input [batch, ...] -> logits [batch, frames, vocabulary].

    With `num_layers`, it has only so many layers, with marked boundaries.
    """

    def __init__(self, model: Any, compute: Compute, num_layers: int | None = None) -> None:
        super().__init__()
        self.model = model
        self._compute = compute
        self._num_layers = num_layers
        # Norms are never stored in other types than that of the computation.
        norms = (each for each in model.modules() if isinstance(each, nn.LayerNorm))
        self._dtype = next(norms).weight.dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self._compute(self.model, inputs[0].to(self._dtype), self._num_layers),)


def graph_of(
    model: Any, compute: Compute, name: str, axis: str, example: tuple[int, ...], least: int
) -> Graph:
    """Return the only graph of a model.

    Args:
        model: The model.
        compute: Computes its logits.
        name: The input's name.
        axis: The name of its axis of time.
        example: The input's shape, without the batch; the axis of time is the first.
        least: The least size of that axis.
    """
    whole = Graph(
        GRAPH,
        Logits(model, compute),
        {name: torch.empty((2, *example), device="meta")},
        {name: {0: "batch", 1: axis}},
        {OUTPUT: ("batch", "frames", model.config.vocab_size)},
        least={axis: least},
    )
    layers = core(model).encoder.layers
    if not alike(layers, apart_from=TABLE):
        return whole
    single = replace(whole, module=Logits(model, compute, num_layers=1))
    return replace(whole, single_layer=single, num_layers=len(layers))
