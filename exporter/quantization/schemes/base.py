"""The interface of quantization schemes for the plan, the weights' reader and the targets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from exporter.formats.tensor_io import Layout

Blocks = Callable[[], Iterable[Tensor]]
"""Gives a weight as blocks of its rows, as often as it is called."""


class QuantizationScheme(BaseModel, ABC):
    """The storage of a module's weight and the type of its inputs; fields are recipe parameters.

    A scheme is a value: two with the same name and parameters are equal. It defines the tensors
    stored for a module; each target implements their multiplication itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    CALIBRATED: ClassVar[frozenset[str]] = frozenset()
    """The fields that a recipe must not set: a build calibrates them."""

    @classmethod
    @abstractmethod
    def applies_to(cls, module: nn.Module) -> bool:
        """Return whether a module of this type can have the scheme."""

    @abstractmethod
    def layout(self, shape: tuple[int, ...], stored: torch.dtype) -> Layout:
        """Return type and shape of each tensor stored for a weight, by its name in the module.

        Args:
            shape: The weight's shape, [out, in], or [out, in, kernel] of a convolution.
            stored: The type of the weight in the checkpoint.
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters as plain data, without those that are None."""
        return self.model_dump(mode="json", exclude_none=True)

    def __str__(self) -> str:
        """Return the name, and each parameter that differs from its default."""
        fields = type(self).model_fields
        set_here = {k: v for k, v in self.parameters.items() if v != fields[k].default}
        return ", ".join([self.name, *(f"{key} {_shown(v)}" for key, v in set_here.items())])


class IntegerScheme(QuantizationScheme):
    """A scheme that stores a weight as integers."""

    @property
    def by_row(self) -> bool:
        """Whether each row of the weight has one scale, so that rows can be looked up."""
        return False

    @abstractmethod
    def quantize(self, blocks: Blocks, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the tensors of `layout` by name; `weight` is the large one.

        Args:
            blocks: Returns an iterator over blocks of rows of the float weight [out, ...].
            shape: The weight's shape.
        """

    @abstractmethod
    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the float32 weight [out, ...] that the tensors of `layout` stand for."""


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
