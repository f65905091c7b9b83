"""Whisper models cut into graphs, and sounds for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from exporter.families.graph import WRITTEN, Graph, GraphFunction, parameter_names
from exporter.families.layered import LayeredGraph, in_layer
from exporter.families.whisper import family as whisper
from exporter.families.whisper.engine.eager import eager_engine
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio

Cut = Literal["dynamic", "static", "device"]
ROWS = (1, 5, 8)
"""The numbers of rows of which a cut for a device has steps."""


class Eager:
    """A graph that runs as the module it was cut from, with the inputs its traced form takes."""

    device = torch.device("cpu")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        assert inputs.keys() == self.graph.inputs.keys()
        outputs = self.graph.module(*(inputs[name] for name in self.graph.inputs))
        named = dict(zip(self.graph.outputs, outputs, strict=True))
        for name in [name for name in named if name.endswith(WRITTEN)]:
            inputs[name.removesuffix(WRITTEN)].copy_(named.pop(name))
        return named if wanted is None else {name: named[name] for name in wanted}


def sounds(*seconds: float) -> list[Audio]:
    source = np.random.default_rng(0)
    return [source.normal(0, 0.1, int(16000 * s)).astype(np.float32) for s in seconds]


class Swapped:
    """A layer's graph with the weights of another layer, as loaders swap them: by their names."""

    device = torch.device("cpu")

    def __init__(self, graph: Graph, model: Any, index: int) -> None:
        self._eager = Eager(graph)
        names = parameter_names(graph, model).items()
        self._weights = {
            f"graph.{own}": model.get_parameter(in_layer(name, index)) for own, name in names
        }

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        return dict(functional_call(_Called(self._eager), self._weights, (inputs, wanted)))


class _Called(nn.Module):
    def __init__(self, eager: Eager) -> None:
        super().__init__()
        self.graph = eager.graph.module
        self._eager = eager

    def forward(self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None) -> Any:
        return self._eager(inputs, wanted)


def joined(graph: LayeredGraph, model: Any) -> GraphFunction:
    """Join eager parts, with the first layer's graph for all layers."""
    before, after = (None if p is None else Eager(p) for p in (graph.before, graph.after))
    layers = [Swapped(graph.layer, model, index) for index in range(graph.num_layers)]
    return graph.join(before, layers, after)


def device_cut(model: Any, rows: Sequence[int] = ROWS, *, narrow: bool = False) -> dict[str, Any]:
    """Return the functions of a cut for a device, of eager parts."""
    return {
        graph.name: joined(graph, model) if isinstance(graph, LayeredGraph) else Eager(graph)
        for graph in whisper.device_graphs(model, rows, narrow=narrow)
    }


def recut(folder: Path, cut: Cut) -> Any:
    if cut == "device":
        return whisper.assemble(folder, device_cut(whisper.open_original(folder)))
    graphs = whisper.graphs(whisper.open_original(folder), cut)
    return whisper.assemble(folder, {graph.name: Eager(graph) for graph in graphs})


def opened(folder: Path, kind: str) -> Any:
    """Open a checkpoint cut into graphs, or `eager`: transformers' own modules."""
    if kind != "eager":
        return recut(folder, kind)  # type: ignore[arg-type]
    model = whisper.open_original(folder)
    model.engine = eager_engine(model)
    return model


def multilingual(**other: Any) -> Decoding:
    return Decoding(language="en", task="transcribe", **other)
