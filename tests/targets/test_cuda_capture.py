"""Steps that are recorded: here by something that calls the step again, as a replay would."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from exporter.errors import MachineError
from exporter.families.graph import CapturedFunction
from exporter.targets.aoti.cuda.capture import CapturedStep

CUDA_ERROR = "CUDA error: an illegal memory access was encountered\nMore lines."


class Step:
    """Advances a token, and doubles it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        if self.error:
            raise self.error
        token = inputs["token"]
        token.add_(1)
        return {"logits": 2 * token}


class Graph:
    """A call whose results stay where they are."""

    def __init__(self, step: Step, inputs: Mapping[str, Tensor]) -> None:
        self._step, self._inputs = step, inputs
        self.outputs = step(inputs)

    def replay(self) -> None:
        for name, tensor in self._step(self._inputs).items():
            self.outputs[name].copy_(tensor)


class Capture:
    """Records as a GPU would."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def record(self, step: Any, inputs: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        graph = Graph(step, inputs)
        return graph, graph.outputs


def captured(step: Step) -> CapturedStep:
    stand_in: Any = Capture()
    return CapturedStep("step_1", step, stand_in)


def test_a_replay_returns_the_same_tensors_with_new_contents() -> None:
    function = captured(Step())
    assert isinstance(function, CapturedFunction)
    token = torch.tensor([0])
    again = function.capture({"token": token})
    first = again()
    assert (int(token), int(first["logits"])) == (2, 4)
    second = again()
    assert second["logits"] is first["logits"]
    assert (int(token), int(second["logits"])) == (3, 6)
    token.fill_(9)
    assert int(again()["logits"]) == 20
    assert int(function({"token": token})["logits"]) == 22


def test_a_gpu_that_fails_is_an_error_with_the_steps_name() -> None:
    step = Step()
    again = captured(step).capture({"token": torch.tensor([0])})
    step.error = RuntimeError(CUDA_ERROR)
    with pytest.raises(MachineError, match=r"^step_1: the GPU failed: CUDA error: an illegal"):
        again()
    with pytest.raises(MachineError, match="step_1"):
        captured(step).capture({"token": torch.tensor([0])})


def test_memory_that_runs_out_stays_such_an_error() -> None:
    step = Step()
    step.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(torch.OutOfMemoryError):
        captured(step).capture({"token": torch.tensor([0])})


def test_another_error_is_not_the_gpus() -> None:
    step = Step()
    step.error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        captured(step).capture({"token": torch.tensor([0])})
