"""The result of teacher forcing, and how outputs of modules are seen, for all families."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

States = Mapping[str, Tensor]
"""Outputs of modules, float32 [windows, length, width], by their names in the original."""


@dataclass(frozen=True)
class Forced:
    """Logits float32 [windows, steps, vocabulary], and what some modules computed on the way."""

    logits: Tensor
    states: States

    def cpu(self) -> Forced:
        """Return the same in the host's memory."""
        return Forced(self.logits.cpu(), {name: each.cpu() for name, each in self.states.items()})


@contextmanager
def observed(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the outputs [batch, length, width] of modules by name, as float32."""
    seen: dict[str, list[Tensor]] = {}

    def keeping(name: str) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
            seen.setdefault(name, []).append(output.detach().float())

        return keep

    handles = [model.get_submodule(name).register_forward_hook(keeping(name)) for name in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
