"""Quantize the rows of a tensor to int8 numbers and scales."""

from collections.abc import Callable, Iterable
from math import prod

import torch
from torch import Tensor


def quantize(
    blocks: Callable[[], Iterable[Tensor]],
    shape: tuple[int, ...],
    *,
    bits: int = 8,
    per_channel: bool = True,
) -> tuple[Tensor, Tensor]:
    """Quantize a float weight [out, ...], read as blocks of rows: symmetric, half to even.

    Args:
        blocks: Returns an iterator over the rows; called once or twice.
        shape: The weight's shape.
        bits: Width of the codes, whose largest value is 2 ** (bits - 1) - 1.
        per_channel: Use one scale per row, else one for the tensor.

    Returns:
        The int8 codes [out, ...] and the float32 scales, [out] or, without `per_channel`, [1]. A
        weight with NaN or infinity has a scale that is not finite.
    """
    limit = 2 ** (bits - 1) - 1
    codes = torch.empty((shape[0], prod(shape[1:])), dtype=torch.int8)
    scales = torch.empty(shape[0] if per_channel else 1)
    if not per_channel:
        scales[0] = _scales(
            torch.cat([_peaks(block.flatten(1)) for block in blocks()]).amax(), limit
        )
    start, buffer = 0, torch.empty(0)  # reused: allocating costs as much as the arithmetic
    for block in (each.flatten(1) for each in blocks()):
        if len(block) > len(buffer):
            buffer = torch.empty(block.shape)
        rows, end = buffer[: len(block)].copy_(block), start + len(block)
        if per_channel:
            scales[start:end] = _scales(_peaks(rows), limit)
        own = scales[start:end] if per_channel else scales
        codes[start:end] = rows.div_(own[:, None]).round_()
        start = end
    return codes.reshape(shape), scales


def _peaks(rows: Tensor) -> Tensor:
    peaks: Tensor = torch.linalg.vector_norm(rows, torch.inf, dim=1, dtype=torch.float32)
    return peaks


def _scales(peaks: Tensor, limit: int) -> Tensor:
    """Return the scales; a row of zeros has the smallest positive one."""
    return (peaks / limit).clamp_min(torch.finfo(torch.float32).tiny)
