"""static-int8: symmetric int8 weights, inputs quantized with one scale that calibration found."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from exporter.formats.tensor_io import Layout
from exporter.quantization.convolution import is_product, per_row
from exporter.quantization.int8 import quantize
from exporter.quantization.schemes.base import Blocks, IntegerScheme

LARGEST = 255


class Scheme(IntegerScheme):
    """int8 codes with a scale per row, and for the inputs one scale and one zero point.

    Inputs become u8 codes of the range from `low` to `high`, in which zero is a code. A recipe
    does not set the range: a build calibrates it. `bits` are those of the weights: see
    dynamic-int8.
    """

    name: ClassVar[str] = "static-int8"
    CALIBRATED: ClassVar[frozenset[str]] = frozenset({"low", "high"})

    bits: Literal[7, 8] = 8
    low: float | None = None
    high: float | None = None

    @classmethod
    def applies_to(cls, module: nn.Module) -> bool:
        """Return whether the module is a product with a constant weight."""
        return is_product(module)

    @property
    def input_scale(self) -> float:
        """The difference of two consecutive input values."""
        low, high = self._range()
        # As float32, in which it is stored, and in which every target computes.
        return float(torch.tensor((high - low) / LARGEST))

    @property
    def input_zero_point(self) -> int:
        """The code of an input of zero."""
        return min(max(round(-self._range()[0] / self.input_scale), 0), LARGEST)

    def rounded(self, states: Tensor) -> Tensor:
        """Round inputs to the values that have codes."""
        zero = self.input_zero_point
        codes = (states / self.input_scale).round().add_(zero).clamp_(0, LARGEST)
        return codes.sub_(zero).mul_(self.input_scale)

    def layout(self, shape: tuple[int, ...], stored: torch.dtype) -> Layout:
        """Return the codes as `weight`, their `scale`, and those of the inputs."""
        return {
            "weight": (torch.int8, shape),
            "scale": (torch.float32, (shape[0],)),
            "input_scale": (torch.float32, (1,)),
            "input_zero_point": (torch.uint8, (1,)),
        }

    def quantize(self, blocks: Blocks, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the tensors of `layout`."""
        codes, scales = quantize(blocks, shape, bits=self.bits)
        return {
            "weight": codes,
            "scale": scales,
            "input_scale": torch.tensor([self.input_scale]),
            "input_zero_point": torch.tensor([self.input_zero_point], dtype=torch.uint8),
        }

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the codes times the scales of their rows."""
        return tensors["weight"].float() * per_row(tensors["scale"], tensors["weight"])

    def _range(self) -> tuple[float, float]:
        """Return the range with zero in it, and never empty."""
        low, high = min(self.low or 0.0, 0.0), max(self.high or 0.0, 0.0)
        return (low, high) if high > low else (0.0, 1.0)
