"""Run a built graph in onnxruntime, on tensors of torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from exporter.runtime.onnx import WRITTEN
from exporter.runtime.onnx.session import OpenGraph, open_graph
from exporter.system.accelerators import Device
from exporter.targets.onnx.providers import PROVIDERS, Provider


def open_session(
    path: Path, content: bytes, threads: int, device: Device = "cpu", limit_s: float = 3600.0
) -> "Session":
    """Open a graph; caches that it writes in place are bound instead of passed.

    Args:
        path: The graph's file, beside which its external data is.
        content: What is in it.
        threads: Number of threads.
        device: A kind of device that this machine has.
        limit_s: Seconds that opening, and each call, may take in a step's process.

    Raises:
        IntegrityError: The file is not a graph that onnxruntime can run.
    """
    provider = PROVIDERS[device]
    graph = open_graph(path, content, threads, providers=provider.names, limit_s=limit_s)
    written = any(output.name.endswith(WRITTEN) for output in graph.session.get_outputs())
    kind = InPlaceSession if written else Session
    return kind(graph, provider)


class Session:
    """A session whose inputs and outputs are not copied."""

    def __init__(self, graph: OpenGraph, provider: Provider) -> None:
        self._graph = graph
        self._session = session = graph.session
        self._provider = provider
        self.device = provider.torch_device
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        names = self._outputs if wanted is None else list(wanted)
        provider = self._provider
        arrays = {name: provider.to_array(tensor) for name, tensor in inputs.items()}
        with self._graph.bounded():
            results = zip(names, self._session.run(names, arrays), strict=True)
        return {name: provider.from_array(array) for name, array in results}


class InPlaceSession(Session):
    """A session that writes outputs whose names end in `WRITTEN` to the input of that name.

    Tensors stay bound until replaced: of a hundred, few change from token to token.
    """

    def __init__(self, graph: OpenGraph, provider: Provider) -> None:
        super().__init__(graph, provider)
        session = graph.session
        self._written = {n.removesuffix(WRITTEN): n for n in self._outputs if n.endswith(WRITTEN)}
        self._returned = [name for name in self._outputs if not name.endswith(WRITTEN)]
        self._binding = session.io_binding()
        for name in self._returned:  # outputs are returned in the order of binding
            self._binding.bind_output(name, *provider.memory)
        self._bound: dict[str, tuple[int, torch.Size]] = {}
        self._lock = Lock()

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        names = self._returned if wanted is None else list(wanted)
        with self._lock:
            for name, tensor in inputs.items():
                place = (tensor.data_ptr(), tensor.shape)
                if self._bound.get(name) != place:
                    self._bind(name, tensor)
                    self._bound[name] = place
            for name in self._returned:  # new memory, so that earlier results stay valid
                self._binding.bind_output(name, *self._provider.memory)
            with self._graph.bounded():
                self._session.run_with_iobinding(self._binding)
            values = self._binding.get_outputs_as_ortvaluevector()
            return {n: self._provider.from_value(values[self._returned.index(n)]) for n in names}

    def _bind(self, name: str, tensor: Tensor) -> None:
        array = self._provider.to_array(tensor)
        place = (*self._provider.memory, array.dtype, array.shape, tensor.data_ptr())
        self._binding.bind_input(name, *place)
        if name in self._written:
            self._binding.bind_output(self._written[name], *place)
