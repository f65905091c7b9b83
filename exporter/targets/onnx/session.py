"""Run a built graph in onnxruntime."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from exporter.errors import IntegrityError, exhausted
from exporter.families.graph import WRITTEN
from exporter.system.accelerators import Device
from exporter.system.signals import time_limit
from exporter.targets.onnx.providers import PROVIDERS, Provider

_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


def open_session(
    path: Path, graph: bytes, threads: int, device: Device = "cpu", limit_s: float = 3600.0
) -> "Session":
    """Open a graph; caches that it writes in place are bound instead of passed.

    Args:
        path: The graph's file, beside which its external data is.
        graph: What is in it.
        threads: Number of threads.
        device: A kind of device that this machine has.
        limit_s: Seconds that opening, and each call, may take in a step's process.

    Raises:
        IntegrityError: The file is not a graph that onnxruntime can run.
    """
    provider = PROVIDERS[device]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin long take the cores of torch and of the other session, and those that
    # sleep at once wake late. In ms, with no spinning, 50 us, and no end: a token of
    # whisper-small 12.6, 9.1, 9.0; a greedy clip of the demo 15.9, 15.7, 32.5.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.log_severity_level = 3
    try:
        options.add_session_config_entry(_DATA_FOLDER, str(path.parent.absolute()))
        with time_limit(limit_s):
            session = onnxruntime.InferenceSession(graph, options, providers=[*provider.names])
    except Exception as error:  # the base of onnxruntime's
        if exhausted(error):
            raise
        msg = f"{path} is no graph for onnxruntime {onnxruntime.__version__}: {error}"
        raise IntegrityError(msg.splitlines()[0][:500]) from error
    written = any(output.name.endswith(WRITTEN) for output in session.get_outputs())
    kind = InPlaceSession if written else Session
    return kind(session, provider, path, limit_s)


class Session:
    """A session whose inputs and outputs are not copied."""

    def __init__(self, session: Any, provider: Provider, path: Path, limit_s: float) -> None:
        self._session = session
        self._provider = provider
        self._path = path
        self._limit_s = limit_s
        self.device = provider.torch_device
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        names = self._outputs if wanted is None else list(wanted)
        provider = self._provider
        arrays = {name: provider.to_array(tensor) for name, tensor in inputs.items()}
        with self._bounded():
            results = zip(names, self._session.run(names, arrays), strict=True)
        return {name: provider.from_array(array) for name, array in results}

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Run a graph, which may be anybody's, in limited time; tell its errors as the file's."""
        try:
            with time_limit(self._limit_s):
                yield
        except Exception as error:  # the base of onnxruntime's
            if exhausted(error):
                raise
            msg = f"{self._path} cannot be run: {error}"
            raise IntegrityError(msg.splitlines()[0][:500]) from error


class InPlaceSession(Session):
    """A session that writes outputs whose names end in `WRITTEN` to the input of that name.

    Tensors stay bound until replaced: of a hundred, few change from token to token.
    """

    def __init__(self, session: Any, provider: Provider, path: Path, limit_s: float) -> None:
        super().__init__(session, provider, path, limit_s)
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
            with self._bounded():
                self._session.run_with_iobinding(self._binding)
            values = self._binding.get_outputs_as_ortvaluevector()
            return {n: self._provider.from_value(values[self._returned.index(n)]) for n in names}

    def _bind(self, name: str, tensor: Tensor) -> None:
        array = self._provider.to_array(tensor)
        place = (*self._provider.memory, array.dtype, array.shape, tensor.data_ptr())
        self._binding.bind_input(name, *place)
        if name in self._written:
            self._binding.bind_output(self._written[name], *place)
