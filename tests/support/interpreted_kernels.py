"""Run our Triton kernels in Triton's interpreter, beside the operators that they compute.

The interpreter is chosen when kernels are defined, so this is a program of its own: it prints the
largest difference of each case, relative to the largest value, as JSON.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

os.environ["TRITON_INTERPRET"] = "1"

from exporter.families import attention as meant
from exporter.targets.aoti.cuda import product
from exporter.targets.aoti.cuda.kernels import OF_STEP

Case = tuple[str, Callable[[], float]]

CACHED = [(1, 2, 64, 448), (5, 3, 16, 70), (8, 1, 20, 33), (32, 1, 16, 40), (3, 2, 64, 600)]
AUDIO = [(1, 4, 64, 1500, 2), (5, 3, 16, 130, 3), (8, 2, 20, 70, 4), (32, 1, 16, 50, 3)]
PRODUCTS = [(1, 64, 40), (1, 300, 33), (5, 64, 40), (8, 96, 17), (32, 130, 50)]
TYPES = (torch.float16, torch.bfloat16)


def cases() -> Iterator[Case]:
    """All cases by name; the interpreter has no matrix products in bfloat16."""
    for dtype in TYPES:
        kind = str(dtype).removeprefix("torch.")
        for shape in CACHED:
            yield f"cached {kind} {shape}", lambda s=shape, d=dtype: cached(*s, d)
        for shape in AUDIO:
            yield f"audio {kind} {shape}", lambda s=shape, d=dtype: audio(*s, d, narrow=False)
        for shape in PRODUCTS if dtype == torch.float16 else PRODUCTS[:2]:
            for groups in (None, 1, 32):
                for fused in (False, True):
                    yield (
                        f"product {kind} {shape} groups={groups} fused={fused}",
                        lambda s=shape, d=dtype, g=groups, f=fused: multiplied(*s, d, g, fused=f),
                    )
    for shape in AUDIO:
        yield f"audio int8 {shape}", lambda s=shape: audio(*s, torch.float16, narrow=True)


def cached(rows: int, heads: int, dim: int, positions: int, dtype: torch.dtype) -> float:
    """A beam's rows, each at its own position, in slots that are not in order."""
    slots = rows + 2
    own = torch.randperm(slots)[:rows].int()
    position = torch.randint(0, positions, (rows,)).int()
    others = torch.tensor([slot for slot in range(slots) if slot not in own])
    ancestors = others[torch.randint(0, len(others), (slots, positions))].int()
    for slot, place in zip(own, position, strict=True):
        ancestors[slot, place // 2 :] = slot
    states = torch.randn(rows, 1, 3 * heads * dim).to(dtype)
    shape = (slots, heads, positions, dim)
    key, value = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    right = key.clone(), value.clone()
    rest = ancestors, own, position, dim**-0.5
    found = OF_STEP["exporter::cached_attention"](states, key, value, *rest)
    wanted = meant.cached_attention(states, *right, *rest)
    written = torch.equal(key, right[0]) and torch.equal(value, right[1])
    return difference(found, wanted) if written else float("inf")


def audio(
    rows: int,
    heads: int,
    dim: int,
    source: int,
    windows: int,
    dtype: torch.dtype,
    *,
    narrow: bool,
) -> float:
    """Rows that hear some of the windows, in any order."""
    query = torch.randn(rows, 1, heads * dim).to(dtype)
    heard = [torch.randn(windows, heads, source, dim) for _ in range(2)]
    scales: list[Tensor] = []
    if narrow:
        pairs = [meant.quantized_places(each) for each in heard]
        heard, scales = [codes for codes, _ in pairs], [scale for _, scale in pairs]
    else:
        heard = [each.to(dtype) for each in heard]
    window = torch.randint(0, windows, (rows,)).int()
    given = query, *heard, scales, window, dim**-0.5
    return difference(OF_STEP["exporter::audio_attention"](*given), meant.audio_attention(*given))


def multiplied(
    rows: int,
    width: int,
    outputs: int,
    dtype: torch.dtype,
    groups: int | None,
    *,
    fused: bool,
) -> float:
    """A product of few rows, alone or with a norm before it and all that may come after it."""
    states = 3 * torch.randn(rows, 1, width).to(dtype)
    weight, scale = torch.randn(outputs, width).to(dtype) / 8, None
    if groups is not None:
        weight = torch.randint(-128, 128, (outputs, width)).to(torch.int8)
        count = 1 if groups == 1 else -(-width // groups)
        scale = torch.rand(outputs, count) / 500
    bias, residual = torch.randn(outputs).to(dtype), torch.randn(rows, 1, outputs).to(dtype)
    norm = [torch.randn(width).to(dtype) for _ in range(2)]
    given: list[Any] = [states, weight, scale, None, None, None, None, 0.0, False]
    if fused:
        given = [states, weight, scale, bias, *norm, residual, 1e-5, True]
    return difference(OF_STEP["exporter::row_product"](*given), product.row_product(*given))


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    wide = found.float(), wanted.float()
    return float((wide[0] - wide[1]).abs().max() / wide[1].abs().max())


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(json.dumps({name: run() for name, run in cases()}))
