"""Quantize the rows of a tensor to int8 numbers and scales."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from exporter.quantization.plan import QuantizationScheme


def quantize(
    blocks: Callable[[], Iterable[Tensor]], shape: tuple[int, ...], scheme: QuantizationScheme
) -> tuple[Tensor, Tensor]:
    """Quantize a float weight [out, in], read as blocks of rows: symmetric, half to even.

    Gives the int8 codes [out, in] and the float32 scales, [out] or, without `per_channel`, [1]. A
    weight that holds NaN or infinity gives a scale that is not finite.
    """
    codes = torch.empty(shape, dtype=torch.int8)
    scales = torch.empty(shape[0] if scheme.per_channel else 1)
    if not scheme.per_channel:
        scales[0] = _scales(torch.cat([_peaks(block) for block in blocks()]).amax(), scheme)
    start, buffer = 0, torch.empty(0)  # one for all blocks: fresh memory costs as much as the work
    for block in blocks():
        if len(block) > len(buffer):
            buffer = torch.empty(block.shape)
        rows, end = buffer[: len(block)].copy_(block), start + len(block)
        if scheme.per_channel:
            scales[start:end] = _scales(_peaks(rows), scheme)
        own = scales[start:end] if scheme.per_channel else scales
        codes[start:end] = rows.div_(own[:, None]).round_()
        start = end
    return codes, scales


def _peaks(rows: Tensor) -> Tensor:
    peaks: Tensor = torch.linalg.vector_norm(rows, torch.inf, dim=1, dtype=torch.float32)
    return peaks


def _scales(peaks: Tensor, scheme: QuantizationScheme) -> Tensor:
    """A row of zeros has the smallest scale instead of none."""
    return (peaks / scheme.limit).clamp_min(torch.finfo(torch.float32).tiny)
