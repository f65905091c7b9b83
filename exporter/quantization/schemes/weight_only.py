"""What weight-int4 and weight-int8 share: codes in groups along the inputs, a scale for each."""

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from exporter.formats.tensor_io import Layout
from exporter.quantization.schemes.base import Blocks, IntegerScheme

GroupSize = Literal[32, 64, 128]
_TINY = torch.finfo(torch.float32).tiny


class WeightOnly(IntegerScheme, ABC):
    """Unsigned codes [out, in] with a scale, and a zero point, per group of a row.

    A weight is (code - zero) * scale. Groups are `group_size` inputs, the last one of a row the
    rest. The layout is that of onnxruntime's `MatMulNBits`, but for the padding of the last group.

    - `weight`: uint8 [out, in * BITS / 8]; of two 4-bit codes in a byte, the first is the low one.
    - `scale`: float32 [out, groups]; negative where the largest weight of a group is positive. Its
      values are exact in bfloat16, in which torch multiplies by them.
    - `zero_point`: uint8 [out, groups * BITS / 8], rounded up, packed like `weight`; only if not
      `symmetric`. Otherwise all zero points are 2 ** (BITS - 1).
    """

    BITS: ClassVar[int]

    group_size: GroupSize
    symmetric: bool = True

    @classmethod
    def applies_to(cls, module: nn.Module) -> bool:
        """Return whether the module is linear, and its rows of codes are whole bytes."""
        return isinstance(module, nn.Linear) and module.in_features * cls.BITS % 8 == 0

    def rounded(self, states: Tensor) -> Tensor:
        """Round inputs [..., in] as kernels that round them do: see `round_groups`."""
        return round_groups(states, self.group_size)

    def groups(self, width: int) -> int:
        """Return the number of groups of a row of `width` weights."""
        return -(-width // self.group_size)

    def layout(self, shape: tuple[int, ...], stored: torch.dtype) -> Layout:
        """Return the codes as `weight`, `scale`, and `zero_point` if there is one."""
        rows, groups = shape[0], self.groups(shape[1])
        layout: Layout = {
            "weight": (torch.uint8, (rows, _bytes(shape[1], self.BITS))),
            "scale": (torch.float32, (rows, groups)),
        }
        if not self.symmetric:
            layout["zero_point"] = (torch.uint8, (rows, _bytes(groups, self.BITS)))
        return layout

    def quantize(self, blocks: Blocks, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the codes, scales and zero points, rounded half to even."""
        layout = self.layout(shape, torch.float32)
        tensors = {n: torch.empty(size, dtype=dtype) for n, (dtype, size) in layout.items()}
        start = 0
        for block in blocks():
            end = start + len(block)
            groups = grouped(block.float(), self.group_size)
            steps, zeros = self._steps(groups)
            codes = groups.div_(steps[..., None]).round_().add_(zeros[..., None])
            codes = codes.clamp_(0, 2**self.BITS - 1).to(torch.uint8)
            tensors["weight"][start:end] = packed(codes.flatten(1)[:, : shape[1]], self.BITS)
            tensors["scale"][start:end] = steps
            if not self.symmetric:
                tensors["zero_point"][start:end] = packed(zeros.to(torch.uint8), self.BITS)
            start = end
        return tensors

    def _steps(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Return scales and zero points [rows, groups], such that no code has to be clamped.

        There is one negative code more than there are positive ones. So in symmetric groups the
        sign of the scale is such that the larger side has it.
        """
        half, last = 2 ** (self.BITS - 1), 2**self.BITS - 1
        low, high = groups.amin(2).clamp_max(0.0), groups.amax(2).clamp_min(0.0)
        if self.symmetric:
            smaller, larger = torch.minimum(-low, high), torch.maximum(-low, high)
            size = _short(torch.maximum(larger / half, smaller / (half - 1)))
            return torch.where(high > -low, -size, size), torch.full_like(size, half)
        steps = _short(high / last - low / last)
        return steps, (-low / steps).round().clamp(0, last)

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the codes less their zero points, times the scales of their groups."""
        codes = unpacked(tensors["weight"], self.BITS).float()
        numbers = grouped(codes, self.group_size) - self.zeros(tensors)[..., None]
        weight: Tensor = (numbers * tensors["scale"][..., None]).flatten(1)[:, : codes.shape[1]]
        return weight

    def zeros(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the zero points, float32 [out, groups]."""
        scale = tensors["scale"]
        if self.symmetric:
            return torch.full_like(scale, 2 ** (self.BITS - 1), dtype=torch.float32)
        return unpacked(tensors["zero_point"], self.BITS)[:, : scale.shape[1]].float()


def _short(steps: Tensor) -> Tensor:
    """Round steps up to the next bfloat16: at most 0.8 % more, and never 0."""
    bits = steps.clamp_min(_TINY).view(torch.int32)
    return torch.where(steps.isfinite(), (bits + 0xFFFF & ~0xFFFF).view(torch.float32), steps)


def grouped(rows: Tensor, size: int) -> Tensor:
    """Return rows [..., width] as groups [..., groups, size], with zeros behind the last."""
    rest = -rows.shape[-1] % size
    groups: Tensor = nn.functional.pad(rows, (0, rest)).unflatten(-1, (-1, size))
    return groups


def packed(codes: Tensor, bits: int) -> Tensor:
    """Pack codes uint8 [rows, count] into bytes; of two 4-bit codes, the first is the low one."""
    if bits == 8:
        return codes
    codes = nn.functional.pad(codes, (0, codes.shape[1] % 2))
    return codes[:, 0::2] | codes[:, 1::2] << 4


def unpacked(codes: Tensor, bits: int) -> Tensor:
    """Return the codes uint8 [rows, count] of packed bytes; an odd count has one more."""
    if bits == 8:
        return codes
    return torch.stack([codes & 15, codes >> 4], -1).flatten(1)


def round_groups(states: Tensor, size: int) -> Tensor:
    """Round inputs [..., in] to symmetric int8 with one scale per group, as kernels do."""
    groups = grouped(states, size)
    scale = (groups.abs().amax(-1, keepdim=True) / 127).clamp_min(_TINY)
    return (groups / scale).round().mul(scale).flatten(-2)[..., : states.shape[-1]]


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
