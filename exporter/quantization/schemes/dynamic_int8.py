"""dynamic-int8: symmetric int8 weights, inputs quantized at every call."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from exporter.formats.tensor_io import Layout
from exporter.quantization.convolution import is_product, per_row
from exporter.quantization.int8 import quantize
from exporter.quantization.schemes.base import Blocks, IntegerScheme


class Scheme(IntegerScheme):
    """int8 codes in the weight's shape and float32 scales: [out] with `per_channel`, else [1].

    With 7 `bits`, sums of u8 x s8 products do not saturate on x86 without VNNI, which adds pairs
    of them in 16 bits.
    """

    name: ClassVar[str] = "dynamic-int8"

    bits: Literal[7, 8] = 8
    per_channel: bool = True

    @property
    def by_row(self) -> bool:
        """Whether there is a scale per row: `per_channel`."""
        return self.per_channel

    @classmethod
    def applies_to(cls, module: nn.Module) -> bool:
        """Return whether the module is a product with a constant weight."""
        return is_product(module)

    def layout(self, shape: tuple[int, ...], stored: torch.dtype) -> Layout:
        """Return the codes as `weight`, and `scale`."""
        scales = shape[0] if self.per_channel else 1
        return {"weight": (torch.int8, shape), "scale": (torch.float32, (scales,))}

    def quantize(self, blocks: Blocks, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the codes and the scales."""
        codes, scales = quantize(blocks, shape, bits=self.bits, per_channel=self.per_channel)
        return {"weight": codes, "scale": scales}

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the codes times the scales of their rows."""
        return tensors["weight"].float() * per_row(tensors["scale"], tensors["weight"])
