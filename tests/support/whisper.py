"""Whisper models cut into graphs, and sounds for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from exporter.families.graph import WRITTEN, Graph
from exporter.families.whisper import family as whisper
from exporter.families.whisper.engine.eager import eager_engine
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio

Cut = Literal["dynamic", "static"]


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


def recut(folder: Path, cut: Cut) -> Any:
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
