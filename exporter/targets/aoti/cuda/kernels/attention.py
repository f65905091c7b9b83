"""Attention of single tokens, in Triton: to the tokens before them, and to the audio.

A program serves one head of one row. Where there are too few of these for a GPU, the places are
split among several programs, whose results a second kernel combines.
"""

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton
from triton import language as tl

# Programs that keep the multiprocessors of a large GPU busy, and places that one handles at least.
_PROGRAMS, _LEAST_PLACES = 264, 128
_BLOCK = 64


@triton.jit
def cached_attention_kernel(
    states,
    key_cache,
    value_cache,
    ancestors,
    slots,
    position,
    out,
    peaks,
    sums,
    scale,
    heads,
    positions,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a token's key and value, and attend to one part of the positions up to it.

    `out` is the result; with several splits it has their sums float32 [rows, heads, splits,
    DIM_PADDED], and `peaks` and `sums` [rows, heads, splits] have their softmax's maximum and
    denominator.
    """
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot, place = tl.load(slots + row).to(tl.int64), tl.load(position + row)
    dims = tl.arange(0, DIM_PADDED)
    real = dims < DIM
    width = heads * DIM
    begin = states + row.to(tl.int64) * 3 * width + head * DIM + dims
    # Inductor passes a number of Python in 64 bits, which would widen all that follows.
    query = (tl.load(begin, mask=real, other=0.0).to(tl.float32) * scale).to(tl.float32)
    new_key = tl.load(begin + width, mask=real, other=0.0)
    new_value = tl.load(begin + 2 * width, mask=real, other=0.0)
    if part == 0:
        own = (slot * heads + head) * positions * DIM + place * DIM + dims
        tl.store(key_cache + own, new_key, mask=real)
        tl.store(value_cache + own, new_value, mask=real)
    # The token itself belongs to the first part; others read what is in the caches.
    score = tl.sum(query * new_key.to(tl.float32), 0)
    peak = tl.where(part == 0, score, -float("inf"))
    total = tl.where(part == 0, 1.0, 0.0)
    found = tl.where(part == 0, new_value.to(tl.float32), 0.0)
    each = tl.cdiv(place, SPLITS)
    first, last = part * each, tl.minimum((part + 1) * each, place)
    for start in range(first, last, BLOCK):
        places = start + tl.arange(0, BLOCK)
        there = places < last
        owners = tl.load(ancestors + slot * positions + places, mask=there, other=0).to(tl.int64)
        rows = ((owners * heads + head) * positions + places) * DIM
        both = there[:, None] & real[None, :]
        keys = tl.load(key_cache + rows[:, None] + dims[None, :], mask=both, other=0.0)
        values = tl.load(value_cache + rows[:, None] + dims[None, :], mask=both, other=0.0)
        scores = tl.sum(keys.to(tl.float32) * query[None, :], 1)
        scores = tl.where(there, scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 0))
        weights, kept = tl.exp(scores - higher), tl.exp(peak - higher)
        total = total * kept + tl.sum(weights, 0)
        found = found * kept + tl.sum(weights[:, None] * values.to(tl.float32), 0)
        peak = higher
    at = row.to(tl.int64) * heads + head
    if SPLITS == 1:
        result = (found / total).to(out.dtype.element_ty)
        tl.store(out + at * DIM + dims, result, mask=real)
    else:
        at = at * SPLITS + part
        tl.store(peaks + at, peak)
        tl.store(sums + at, total)
        tl.store(out + at * DIM_PADDED + dims, found)


@triton.jit
def audio_attention_kernel(
    query,
    key,
    value,
    key_scale,
    value_scale,
    window,
    out,
    peaks,
    sums,
    scale,
    heads,
    source,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    QUANTIZED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Attend to one part of the audio of a row's window; `out` as in `cached_attention_kernel`."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dims = tl.arange(0, DIM_PADDED)
    real = dims < DIM
    at = row.to(tl.int64) * heads + head
    asked = tl.load(query + at * DIM + dims, mask=real, other=0.0).to(tl.float32)
    asked = (asked * scale).to(tl.float32)  # a number of Python has 64 bits
    heard = (tl.load(window + row).to(tl.int64) * heads + head) * source
    each = tl.cdiv(source, SPLITS)
    first, last = part * each, tl.minimum((part + 1) * each, source)
    peak, total = -float("inf"), 0.0
    found = tl.zeros([DIM_PADDED], tl.float32)
    for start in range(first, last, BLOCK):
        places = start + tl.arange(0, BLOCK)
        there = places < last
        both = there[:, None] & real[None, :]
        cells = (heard + places)[:, None] * DIM + dims[None, :]
        keys = tl.load(key + cells, mask=both, other=0.0).to(tl.float32)
        values = tl.load(value + cells, mask=both, other=0.0).to(tl.float32)
        scores = tl.sum(keys * asked[None, :], 1)
        if QUANTIZED:
            scores *= tl.load(key_scale + heard + places, mask=there, other=0.0)
        scores = tl.where(there, scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 0))
        weights, kept = tl.exp(scores - higher), tl.exp(peak - higher)
        total = total * kept + tl.sum(weights, 0)
        if QUANTIZED:
            weights *= tl.load(value_scale + heard + places, mask=there, other=0.0)
        found = found * kept + tl.sum(weights[:, None] * values, 0)
        peak = higher
    if SPLITS == 1:
        result = (found / total).to(out.dtype.element_ty)
        tl.store(out + at * DIM + dims, result, mask=real)
    else:
        at = at * SPLITS + part
        tl.store(peaks + at, peak)
        tl.store(sums + at, total)
        tl.store(out + at * DIM_PADDED + dims, found)


@triton.jit
def combine_kernel(
    parts,
    peaks,
    sums,
    out,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_PADDED: tl.constexpr,
):
    """Combine the results of all parts of one head of a row."""
    at = tl.program_id(0).to(tl.int64)
    dims, splits = tl.arange(0, DIM_PADDED), tl.arange(0, SPLITS_PADDED)
    there = splits < SPLITS
    own = at * SPLITS + splits
    peak = tl.load(peaks + own, mask=there, other=-float("inf"))
    factors = tl.exp(peak - tl.max(peak, 0))
    total = tl.sum(tl.load(sums + own, mask=there, other=0.0) * factors, 0)
    cells = own[:, None] * DIM_PADDED + dims[None, :]
    found = tl.load(parts + cells, mask=there[:, None], other=0.0)
    result = tl.sum(found * factors[:, None], 0) / total
    tl.store(out + at * DIM + dims, result.to(out.dtype.element_ty), mask=dims < DIM)


def splits_of(programs: int, places: int) -> int:
    """Return into how many parts the places of each head are split: a power of 2."""
    wanted = min(-(-_PROGRAMS // programs), max(places // _LEAST_PLACES, 1))
    return 1 << (wanted.bit_length() - 1)


@triton_op("exporter::cached_attention_triton", mutates_args={"key_cache", "value_cache"})
def cached_attention(
    states: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    ancestors: Tensor,
    slots: Tensor,
    position: Tensor,
    scale: float,
) -> Tensor:
    """Compute `exporter::cached_attention` of one token a row."""
    rows, _, triple = states.shape
    heads, positions, dim = key_cache.shape[1:]
    padded = triton.next_power_of_2(dim)
    splits = 1 if positions <= _UNSPLIT else splits_of(rows * heads, positions)
    out = states.new_empty((rows, 1, triple // 3))
    found, peaks, sums = _partial(out, rows * heads, splits, padded)
    wrap_triton(cached_attention_kernel)[(rows, heads, splits)](
        states,
        key_cache,
        value_cache,
        ancestors,
        slots,
        position,
        found,
        peaks,
        sums,
        scale,
        heads,
        positions,
        DIM=dim,
        DIM_PADDED=padded,
        SPLITS=splits,
        BLOCK=_BLOCK,
    )
    if splits > 1:
        _combine(found, peaks, sums, out, dim)
    return out


# A guess, not measured: Whisper's 448 positions in one program cost less than one more kernel.
_UNSPLIT = 512


@triton_op("exporter::audio_attention_triton", mutates_args={})
def audio_attention(
    query: Tensor, key: Tensor, value: Tensor, scales: list[Tensor], window: Tensor, scale: float
) -> Tensor:
    """Compute `exporter::audio_attention` of one token a row."""
    rows = query.shape[0]
    heads, source, dim = key.shape[1:]
    padded = triton.next_power_of_2(dim)
    splits = splits_of(rows * heads, source)
    out = torch.empty_like(query)
    found, peaks, sums = _partial(out, rows * heads, splits, padded)
    key_scale, value_scale = scales or (query, query)  # not read
    wrap_triton(audio_attention_kernel)[(rows, heads, splits)](
        query,
        key,
        value,
        key_scale,
        value_scale,
        window,
        found,
        peaks,
        sums,
        scale,
        heads,
        source,
        DIM=dim,
        DIM_PADDED=padded,
        QUANTIZED=bool(scales),
        SPLITS=splits,
        BLOCK=_BLOCK,
    )
    if splits > 1:
        _combine(found, peaks, sums, out, dim)
    return out


def _partial(out: Tensor, programs: int, splits: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a kernel writes: the result itself, or what `combine_kernel` takes."""
    if splits == 1:
        return out, out, out
    peaks, sums = (out.new_empty((programs, splits), dtype=torch.float32) for _ in range(2))
    return out.new_empty((programs, splits, dim), dtype=torch.float32), peaks, sums


def _combine(parts: Tensor, peaks: Tensor, sums: Tensor, out: Tensor, dim: int) -> None:
    """Write the sum of what the programs of each head found to `out`."""
    programs, splits = peaks.shape
    wrap_triton(combine_kernel)[(programs,)](
        parts,
        peaks,
        sums,
        out,
        DIM=dim,
        DIM_PADDED=parts.shape[2],
        SPLITS=splits,
        SPLITS_PADDED=splits,
    )
