"""What every quantization scheme offers to the plan, to the weights' reader and to the targets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from exporter.formats.tensor_io import Layout

Blocks = Callable[[], Iterable[Tensor]]
"""Gives a weight as blocks of its rows, as often as it is called."""


class QuantizationScheme(BaseModel, ABC):
    """What a module's weight and its inputs become; the fields are parameters in a recipe.

    A scheme is a value: two with the same name and parameters are equal. It says which tensors are
    stored for a module; how a target multiplies them is the target's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def applies_to(cls, module: nn.Module) -> bool:
        """Return whether a module of this type can have the scheme."""

    @abstractmethod
    def layout(self, shape: tuple[int, ...], stored: torch.dtype) -> Layout:
        """Return type and shape of each tensor that replaces a weight, by its name in the module.

        Args:
            shape: The weight's shape, [out, in].
            stored: The type in which the checkpoint stores it.
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters as plain data; those without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def __str__(self) -> str:
        """Return the name, and each parameter that is not at its default."""
        fields = type(self).model_fields
        set_here = {k: v for k, v in self.parameters.items() if v != fields[k].default}
        return ", ".join([self.name, *(f"{key} {_shown(v)}" for key, v in set_here.items())])


class IntegerScheme(QuantizationScheme):
    """A scheme that stores integers in the place of a weight."""

    @abstractmethod
    def quantize(self, blocks: Blocks, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the tensors of `layout` by name; `weight` is the large one.

        Args:
            blocks: The float weight [out, in].
            shape: Its shape.
        """


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
