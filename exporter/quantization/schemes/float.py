"""float: a module that is not quantized."""

from typing import ClassVar, Literal

import torch
from torch import nn

from exporter.formats.tensor_io import Layout
from exporter.quantization.schemes.base import QuantizationScheme


class Scheme(QuantizationScheme):
    """A weight in floating point; without `dtype`, in the target's default type."""

    name: ClassVar[str] = "float"

    dtype: Literal["float32", "float16", "bfloat16"] | None = None

    @classmethod
    def applies_to(cls, module: nn.Module) -> bool:
        """Return True: every module can have this scheme."""
        return True

    def storage(self, otherwise: torch.dtype) -> torch.dtype:
        """Return the type in which the weight is stored: `dtype`, or `otherwise` if it is None."""
        return otherwise if self.dtype is None else getattr(torch, self.dtype)

    def layout(self, shape: tuple[int, ...], stored: torch.dtype) -> Layout:
        """Return the type and shape of the weight."""
        return {"weight": (self.storage(stored), shape)}
