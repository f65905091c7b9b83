"""Parameters that a checkpoint does not store as the model has them, and how they come about."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Derivation:
    """One way to compute a parameter of the model from tensors that checkpoints store.

    Attributes:
        sources: The stored tensors' names.
        compute: Takes the sources in float32, in that order, and gives the parameter. It is called
            with tensors on `meta` too, whose result tells the parameter's shape, and raises
            RuntimeError, as torch's operators do, where shapes do not go together.
    """

    sources: tuple[str, ...]
    compute: Callable[..., Tensor]
