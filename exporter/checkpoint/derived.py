"""Parameters that are computed from stored tensors, one by one, when they are read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exporter.errors import CheckpointError
from exporter.families.derived import Derivation
from exporter.formats.tensor_io import BLOCK_ELEMENTS, FLOATS, TensorInfo


@dataclass(frozen=True)
class Derived(TensorInfo):
    """A parameter computed in float32, and rounded once to the type of its first source."""

    sources: tuple[tuple[str, TensorInfo], ...]
    compute: Callable[..., Tensor]

    @property
    def files(self) -> tuple[Path, ...]:
        """The sources' files, each once."""
        return tuple(dict.fromkeys(file for _, info in self.sources for file in info.files))

    def read(self) -> Tensor:
        """Read the sources and compute all values."""
        return self.compute(*(info.read().float() for _, info in self.sources)).to(
            FLOATS[self.dtype]
        )

    def blocks(self) -> Iterator[Tensor]:
        """Compute all values, and yield the rows in order, some at a time."""
        width = self.elements // max(self.shape[0], 1)
        yield from self.read().split(max(BLOCK_ELEMENTS // max(width, 1), 1))


def derive(
    tensors: Mapping[str, TensorInfo], derived: Mapping[str, Sequence[Derivation]]
) -> dict[str, TensorInfo]:
    """Replace stored tensors by the parameters that are computed from them; nothing is read.

    Args:
        tensors: The stored tensors by name.
        derived: A family's `derived`.

    Returns:
        The parameters and the other tensors by name.

    Raises:
        CheckpointError: The shapes of a parameter's sources do not fit together.
    """
    computed: dict[str, TensorInfo] = {}
    used: set[str] = set()
    for name, forms in derived.items():
        whole = (form for form in forms if _are_stored(form, tensors))
        if name not in tensors and (form := next(whole, None)):
            computed[name] = _computed(name, form, tensors)
            used.update(form.sources)
    return {name: info for name, info in tensors.items() if name not in used} | computed


def stored(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors by the names in which a checkpoint stores them."""
    whole: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        whole.update(info.sources if isinstance(info, Derived) else [(name, info)])
    return whole


def _are_stored(form: Derivation, tensors: Mapping[str, TensorInfo]) -> bool:
    """Return True if all sources are stored, in floating-point types."""
    return all(name in tensors and tensors[name].dtype in FLOATS for name in form.sources)


def _computed(name: str, form: Derivation, tensors: Mapping[str, TensorInfo]) -> Derived:
    sources = tuple((source, tensors[source]) for source in form.sources)
    first = sources[0][1]
    try:
        shape = form.compute(*(torch.empty(info.shape, device="meta") for _, info in sources)).shape
    except (RuntimeError, IndexError) as error:
        shapes = " and ".join(f"{source} {list(info.shape)}" for source, info in sources)
        msg = f"{first.file}: {name} cannot be computed of {shapes}: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from error
    return Derived(first.file, first.offset, tuple(shape), first.dtype, sources, form.compute)
