"""Products of few rows, as one operator with what is before and after them.

A decoder's step reads each weight once: its time is that of the reading and of starting kernels. So
the norm before a product, and its bias, GELU and residual, are computed by the same kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn

MOST_ROWS = 64
MOST_NORMED = 8
"""Rows up to which a kernel computes the norm itself, again for each block of outputs."""


@torch.library.custom_op("exporter::row_product", mutates_args=())
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
    """Multiply rows with a weight; sums are float32, and rounded once.

    Args:
        states: Rows [rows, 1, in].
        weight: The weight [out, in] in their type, or int8 with a scale.
        scale: The scales of int8 weights, float32 [out, groups]; groups have equal sizes, except
            the last.
        bias: Added to the product, [out].
        norm_weight: With `norm_bias` [in], rows are normalized first.
        norm_bias: See `norm_weight`.
        residual: Added to the result, [rows, 1, out].
        eps: Of the norm.
        gelu: Whether the exact GELU is applied before the residual is added.
    """
    rows = states.float()
    if norm_weight is not None and norm_bias is not None:
        shape, norm = rows.shape[-1:], (norm_weight.float(), norm_bias.float())
        rows = nn.functional.layer_norm(rows, shape, *norm, eps).to(states.dtype).float()
    product = rows @ widened(weight, scale).t()
    product = product if bias is None else product + bias.float()
    product = nn.functional.gelu(product) if gelu else product
    product = product if residual is None else product + residual.float()
    return product.to(states.dtype)


@row_product.register_fake
def _(states: Tensor, weight: Tensor, *_others: Any) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


def widened(weight: Tensor, scale: Tensor | None) -> Tensor:
    """Return a weight [out, in] in float32."""
    if scale is None:
        return weight.float()
    size = group_size(weight.shape[1], scale.shape[1])
    return weight.float() * scale.repeat_interleave(size, 1)[:, : weight.shape[1]]


def group_size(width: int, groups: int) -> int:
    """Return the inputs that share a scale: a power of 2 where there are several groups."""
    return width if groups == 1 else 1 << (-(-width // groups) - 1).bit_length()


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `torch.nn.functional.linear` by the operator where there are few rows."""
    if not is_few(states):
        return torch.nn.functional.linear(states, weight, bias)
    return product_of(states, weight, None, bias)


def product_of(states: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Call the operator with nothing before or after the product."""
    product: Tensor = row_product(states, weight, scale, bias, None, None, None, 0.0, False)
    return product


def is_few(states: Tensor) -> bool:
    """Return whether states are single tokens of a known, small number of rows."""
    return (
        states.dim() == 3
        and isinstance(states.shape[0], int)
        and states.shape[0] <= MOST_ROWS
        and states.shape[1] == 1
    )


_NORM_WEIGHT, _RESIDUAL, _EPS, _GELU = 4, 6, 7, 8


def fuse_products(graph: torch.fx.Graph) -> None:
    """Move norms, GELUs and residuals into the products beside them."""
    products = graph.find_nodes(op="call_function", target=row_product._opoverload)
    for node in products:
        _fuse_norm(graph, node)
    for node in products:
        _fuse_gelu(graph, node)
        _fuse_residual(graph, node)
    graph.eliminate_dead_code()


def _fuse_norm(graph: torch.fx.Graph, product: torch.fx.Node) -> None:
    norm: Any = product.args[0]
    if norm.target is not torch.ops.aten.layer_norm.default:
        return
    states, shape, weight, bias, eps, *_ = (*norm.args, 1e-5)[:5]
    rows = states.meta["val"]
    if weight is None or bias is None or rows.shape[0] > MOST_NORMED or len(shape) != 1:
        return
    product.update_arg(0, states)
    for place, value in enumerate((weight, bias), _NORM_WEIGHT):
        product.update_arg(place, value)
    product.update_arg(_EPS, eps)


def _fuse_gelu(graph: torch.fx.Graph, product: torch.fx.Node) -> None:
    after = _only_user(product)
    if after is not None and after.target is torch.ops.aten.gelu.default and not after.kwargs:
        product.update_arg(_GELU, True)
        after.replace_all_uses_with(product)
        graph.erase_node(after)


def _fuse_residual(graph: torch.fx.Graph, product: torch.fx.Node) -> None:
    after = _only_user(product)
    if after is None or after.target is not torch.ops.aten.add.Tensor or after.kwargs:
        return
    (other,) = [each for each in after.args if each is not product] or [None]
    if not isinstance(other, torch.fx.Node) or not _alike(other, product):
        return
    # The residual may be computed later than the product: it takes the sum's place.
    arguments = list(product.args)
    arguments[_RESIDUAL] = other
    with graph.inserting_before(after):
        fused = graph.call_function(row_product._opoverload, tuple(arguments))
    fused.meta = dict(after.meta)
    after.replace_all_uses_with(fused)
    graph.erase_node(after)
    graph.erase_node(product)


def _only_user(node: torch.fx.Node) -> Any:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _alike(one: torch.fx.Node, other: torch.fx.Node) -> bool:
    first, second = one.meta["val"], other.meta["val"]
    return bool(first.shape == second.shape and first.dtype == second.dtype)
