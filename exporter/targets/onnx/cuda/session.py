"""Run built graphs on tensors of torch that stay on the host, for `generate` and comparisons.

Each call copies its tensors to the card and back, caches included: transcription has an engine of
its own, whose caches stay there. Torch needs no CUDA for this.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exporter.runtime.onnx import WRITTEN
from exporter.runtime.onnx.session import OpenGraph

_OWN = "own."


class HostSession:
    """A graph that takes and returns float32 for its float16."""

    def __init__(self, graph: OpenGraph) -> None:
        self.device = torch.device("cpu")
        self._graph = graph
        self._inputs, self._outputs = graph.inputs, graph.outputs

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        found = self._run(inputs)
        return found if wanted is None else {name: found[name] for name in wanted}

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {
            name: inputs[name].numpy().astype(value.dtype) for name, value in self._inputs.items()
        }
        return {name: torch.from_numpy(a).float() for name, a in self._graph(arrays).items()}


class StepSession(HostSession):
    """The graph `step` behind the inputs of that of onnx-int8, which writes caches in place."""

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        last, tokens = inputs["own_last"], inputs["input_ids"].shape[1]
        positions = torch.arange(1 - tokens, 1) + last[:1].long()
        for name, tensor in inputs.items():
            if name.startswith(_OWN):  # what was not written yet may be anything
                tensor[:, :, int(positions[0]) :] = 0.0
        found = super()._run({**inputs, "positions": positions, "last": last})
        for name in [name for name in found if name.endswith(WRITTEN)]:
            inputs[name.removesuffix(WRITTEN)].copy_(found.pop(name))
        return found
