"""Products of few rows in Triton: one row as a vector, several as tiles of matrix units.

A program computes a block of outputs of all rows, so that each weight is read once.
"""

from typing import Any

import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton
from triton import language as tl

from exporter.targets.aoti.cuda.product import group_size

_LEAST_TILE = 16  # rows of a tile of matrix units


@triton.jit
def one_row_kernel(
    states,
    weight,
    scale,
    bias,
    norm_weight,
    norm_bias,
    residual,
    out,
    eps,
    WIDTH: tl.constexpr,
    WIDTH_PADDED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    QUANTIZED: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """Compute a block of outputs of one row, summed over blocks of inputs."""
    rows = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    real = rows < OUTPUTS
    mean, spread = 0.0, 1.0
    if NORM:
        every = tl.arange(0, WIDTH_PADDED)
        whole = tl.load(states + every, mask=every < WIDTH, other=0.0).to(tl.float32)
        mean = tl.sum(whole, 0) / WIDTH
        far = tl.where(every < WIDTH, whole - mean, 0.0)
        spread = tl.rsqrt((tl.sum(far * far, 0) / WIDTH + eps).to(tl.float32))  # eps has 64 bits
    sums = tl.zeros([BLOCK_OUT, BLOCK_IN], tl.float32)
    for start in range(0, WIDTH, BLOCK_IN):
        columns = start + tl.arange(0, BLOCK_IN)
        inside = columns < WIDTH
        given = tl.load(states + columns, mask=inside, other=0.0)
        numbers = given.to(tl.float32)
        if NORM:
            factor = tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
            shift = tl.load(norm_bias + columns, mask=inside, other=0.0).to(tl.float32)
            normed = (numbers - mean) * spread * factor + shift
            numbers = normed.to(given.dtype).to(tl.float32)
        cells = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        both = real[:, None] & inside[None, :]
        codes = tl.load(weight + cells, mask=both, other=0).to(tl.float32)
        products = codes * numbers[None, :]
        if GROUP < WIDTH:
            place = rows * tl.cdiv(WIDTH, GROUP) + start // GROUP
            products *= tl.load(scale + place, mask=real, other=0.0)[:, None]
        sums += products
    result = tl.sum(sums, 1)
    if QUANTIZED and GROUP >= WIDTH:
        result *= tl.load(scale + rows, mask=real, other=0.0)
    if BIAS:
        result += tl.load(bias + rows, mask=real, other=0.0).to(tl.float32)
    if GELU:
        result = 0.5 * result * (1.0 + tl.erf(result * 0.7071067811865476))
    if RESIDUAL:
        result += tl.load(residual + rows, mask=real, other=0.0).to(tl.float32)
    tl.store(out + rows, result.to(out.dtype.element_ty), mask=real)


@triton.jit
def statistics(
    states,
    eps,
    ROWS: tl.constexpr,
    ROWS_PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """Return the mean of rows, and the inverse of their standard deviation, [ROWS_PADDED, 1]."""
    rows, columns = tl.arange(0, ROWS_PADDED), tl.arange(0, BLOCK_IN)
    mean = tl.zeros([ROWS_PADDED], tl.float32)
    spread = tl.zeros([ROWS_PADDED], tl.float32)
    for start in range(0, WIDTH, BLOCK_IN):
        both = (rows < ROWS)[:, None] & (start + columns < WIDTH)[None, :]
        cells = rows[:, None] * WIDTH + (start + columns)[None, :]
        mean += tl.sum(tl.load(states + cells, mask=both, other=0.0).to(tl.float32), 1)
    mean /= WIDTH
    for start in range(0, WIDTH, BLOCK_IN):
        both = (rows < ROWS)[:, None] & (start + columns < WIDTH)[None, :]
        cells = rows[:, None] * WIDTH + (start + columns)[None, :]
        whole = tl.load(states + cells, mask=both, other=0.0).to(tl.float32)
        far = tl.where(both, whole - mean[:, None], 0.0)
        spread += tl.sum(far * far, 1)
    return mean[:, None], tl.rsqrt((spread / WIDTH + eps).to(tl.float32))[:, None]


@triton.jit
def few_rows_kernel(
    states,
    weight,
    scale,
    bias,
    norm_weight,
    norm_bias,
    residual,
    out,
    eps,
    ROWS: tl.constexpr,
    ROWS_PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    QUANTIZED: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """Compute a block of outputs of all rows, by matrix units."""
    rows = tl.arange(0, ROWS_PADDED)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    there, real = rows < ROWS, outs < OUTPUTS
    columns = tl.arange(0, BLOCK_IN)
    mean, spread = 0.0, 1.0
    if NORM:
        mean, spread = statistics(states, eps, ROWS, ROWS_PADDED, WIDTH, BLOCK_IN)
    sums = tl.zeros([ROWS_PADDED, BLOCK_OUT], tl.float32)
    for start in range(0, WIDTH, BLOCK_IN):
        inside = start + columns < WIDTH
        cells = rows[:, None] * WIDTH + (start + columns)[None, :]
        both = there[:, None] & inside[None, :]
        numbers = tl.load(states + cells, mask=both, other=0.0)
        if NORM:
            factor = tl.load(norm_weight + start + columns, mask=inside, other=0.0).to(tl.float32)
            shift = tl.load(norm_bias + start + columns, mask=inside, other=0.0).to(tl.float32)
            normed = (numbers.to(tl.float32) - mean) * spread
            numbers = (normed * factor[None, :] + shift[None, :]).to(numbers.dtype)
        places = outs.to(tl.int64)[None, :] * WIDTH + (start + columns)[:, None]
        codes = tl.load(weight + places, mask=inside[:, None] & real[None, :], other=0)
        products = tl.dot(numbers, codes.to(numbers.dtype))
        if GROUP < WIDTH:
            place = outs * tl.cdiv(WIDTH, GROUP) + start // GROUP
            products *= tl.load(scale + place, mask=real, other=0.0)[None, :]
        sums += products
    if QUANTIZED and GROUP >= WIDTH:
        sums *= tl.load(scale + outs, mask=real, other=0.0)[None, :]
    if BIAS:
        sums += tl.load(bias + outs, mask=real, other=0.0).to(tl.float32)[None, :]
    if GELU:
        sums = 0.5 * sums * (1.0 + tl.erf(sums * 0.7071067811865476))
    cells = rows[:, None] * OUTPUTS + outs[None, :]
    both = there[:, None] & real[None, :]
    if RESIDUAL:
        sums += tl.load(residual + cells, mask=both, other=0.0).to(tl.float32)
    tl.store(out + cells, sums.to(out.dtype.element_ty), mask=both)


@triton_op("exporter::row_product_triton", mutates_args={})
def row_product(
    states: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    gelu: bool,
) -> Tensor:
    """Compute `exporter::row_product`."""
    rows, width, outputs = states.shape[0], states.shape[2], weight.shape[0]
    group = group_size(width, 1 if scale is None else scale.shape[1])
    out = states.new_empty((rows, 1, outputs))
    given = (scale, bias, norm_weight, norm_bias, residual)
    tensors = [states if tensor is None else tensor for tensor in given]  # those are not read
    flags = {
        "GROUP": group,
        "QUANTIZED": scale is not None,
        "BIAS": bias is not None,
        "NORM": norm_weight is not None,
        "GELU": gelu,
        "RESIDUAL": residual is not None,
    }
    blocks = blocks_of(rows, width, group)
    wrap_triton(kernel_of(rows))[(triton.cdiv(outputs, blocks["BLOCK_OUT"]),)](
        states,
        weight,
        *tensors,
        out,
        eps,
        WIDTH=width,
        OUTPUTS=outputs,
        **flags,
        **blocks,
        num_warps=warps_of(rows),
    )
    return out


def kernel_of(rows: int) -> Any:
    """Return the kernel for a number of rows."""
    return one_row_kernel if rows == 1 else few_rows_kernel


def blocks_of(rows: int, width: int, group: int) -> dict[str, int]:
    """Return the sizes of the blocks of a kernel: a block of inputs has one scale a row."""
    inputs = triton.next_power_of_2(group)
    if rows == 1:
        padded = triton.next_power_of_2(width)
        return {"WIDTH_PADDED": padded, "BLOCK_OUT": 8, "BLOCK_IN": min(256, inputs)}
    padded = max(_LEAST_TILE, triton.next_power_of_2(rows))
    sizes = {"ROWS": rows, "ROWS_PADDED": padded}
    return {**sizes, "BLOCK_OUT": 16, "BLOCK_IN": max(16, min(128, inputs))}


def warps_of(rows: int) -> int:
    """Return the warps of a program: with fewer, some registers of a tile with a norm spill."""
    return 4 if rows == 1 else 8
