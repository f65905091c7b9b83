"""Capture steps in CUDA graphs: the host then starts all kernels of a step by one call.

All graphs of a model share one pool of memory, in which results stay where they are. So only one
may run at a time, and who wants to keep a result copies it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from exporter.errors import MachineError, exhausted
from exporter.families.graph import GraphFunction, Replay

_WARM_UPS = 3  # the first run loads kernels, which no capture allows


class Capture:
    """What the captured graphs of a model share.

    Args:
        device: The GPU.
        lock: Held while anything of the model runs.
    """

    def __init__(self, device: torch.device, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(
        self, function: GraphFunction, inputs: Mapping[str, Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        """Record a call; return its graph and its results."""
        graph = torch.cuda.CUDAGraph()
        with self.lock, torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    function(inputs)
            current.wait_stream(self._stream)
            recording = torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",  # other threads may compute features
            )
            with recording:
                outputs = function(inputs)
        return graph, outputs


class CapturedStep:
    """A step that can be recorded: a `CapturedFunction`."""

    def __init__(self, name: str, function: GraphFunction, capture: Capture) -> None:
        self.device = function.device
        self._name, self._function, self._capture = name, function, capture

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Run the step once, without a graph."""
        return self._function(inputs, wanted)

    def capture(self, inputs: Mapping[str, Tensor]) -> Replay:
        """Record the step with these tensors, which it finds again by their addresses.

        Raises:
            MachineError: The GPU fails, now or at a replay.
        """
        with naming(self._name):
            graph, outputs = self._capture.record(self._function, inputs)

        def replay() -> dict[str, Tensor]:
            with naming(self._name), self._capture.lock:
                graph.replay()
            return outputs

        return replay


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name a package or graph where CUDA fails in the block.

    Raises:
        MachineError: CUDA failed, for another reason than a lack of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if exhausted(error) or "CUDA error" not in str(error):
            raise
        msg = f"{name}: the GPU failed: {str(error).splitlines()[0]}"
        raise MachineError(msg) from error
