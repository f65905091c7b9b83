"""Parameters that are computed from differently stored tensors of a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Derivation:
    """One way to compute a parameter of the model from tensors that checkpoints store.

    Attributes:
        sources: The stored tensors' names.
        compute: Returns the parameter from the sources in float32, in that order. It is also called
            with tensors on `meta`, to infer the shape, and raises RuntimeError, as torch's
            operators do, if shapes do not match.
    """

    sources: tuple[str, ...]
    compute: Callable[..., Tensor]
