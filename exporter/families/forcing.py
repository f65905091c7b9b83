"""The result of teacher forcing, which all families share."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

States = Mapping[str, Tensor]
"""Outputs of modules, float32 [windows, length, width], by their names in the original."""


@dataclass(frozen=True)
class Forced:
    """Logits float32 [windows, steps, vocabulary], and what some modules computed on the way."""

    logits: Tensor
    states: States
