"""The int8 numbers that all targets store: symmetric weights, tensor by tensor.

One quantizer, so that a difference between two artifacts of a checkpoint is a difference of
runtimes. A `Plan` names the linear modules that become int8; `Weights` gives the tensors of the
planned model one at a time, so that memory follows the largest tensor and not the model.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from exporter.errors import RecipeError


@dataclass(frozen=True)
class QuantizationScheme:
    """How one module's weight becomes int8; `bits` is 7 where u8 x s8 products would saturate."""

    per_channel: bool = True
    bits: int = 8

    @property
    def limit(self) -> int:
        """The largest code: 127 with 8 bits, 63 with 7."""
        return int(2 ** (self.bits - 1)) - 1


@dataclass(frozen=True)
class Plan:
    """Linear modules by name that become int8; everything else stays as it is."""

    modules: Mapping[str, QuantizationScheme] = field(default_factory=dict)


def plan_linears(
    model: nn.Module,
    *,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    scheme: QuantizationScheme = QuantizationScheme(),
) -> Plan:
    """Choose the linear modules of `model` whose names match `include` and not `exclude`.

    Patterns are shell-style (`*.fc1`). One that matches no linear module is an error: it would
    silently quantize what its author meant to keep.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen: set[str] = set()
    for pattern in include:
        chosen.update(_matching(pattern, names))
    for pattern in exclude:
        chosen.difference_update(_matching(pattern, names))
    return Plan({name: scheme for name in names if name in chosen})


def _matching(pattern: str, names: list[str]) -> Iterator[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        msg = f"the pattern {pattern!r} matches no linear module; names look like {names[0]}"
        raise RecipeError(msg)
    return iter(found)
