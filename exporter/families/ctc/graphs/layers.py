"""Layers that the graphs of CTC models share; all states are [batch, frames, channels]."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import attend, attended, attention, joined, split
from exporter.families.graph import mark


def core(model: Any) -> Any:
    """Return the part of a transformers model that has the encoder."""
    return getattr(model, model.base_model_prefix, model)


def convolve(module: Any, states: Tensor) -> Tensor:
    """Apply a one-dimensional convolution to [batch, frames, channels].

    The kernel may be stored in fewer bits than the graph computes in. A quantized convolution is
    a product over unfolded frames, and takes this layout by its method `frames`.
    """
    if hasattr(module, "frames"):
        own: Tensor = module.frames(states)
        return own
    weight = module.weight.to(states.dtype)
    bias = None if module.bias is None else module.bias.to(states.dtype)
    if module.kernel_size == (1,) and module.stride == (1,) and module.groups == 1:
        return nn.functional.linear(states, weight.squeeze(-1), bias)
    convolved = nn.functional.conv1d(
        states.transpose(1, 2),
        weight,
        bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )
    return convolved.transpose(1, 2)


def project(projection: Any, hidden: Tensor) -> Tensor:
    """Normalise features, where a model does, and project them to the encoder's width."""
    norm = getattr(projection, "layer_norm", None)
    projected: Tensor = projection.projection(hidden if norm is None else norm(hidden))
    return projected


def attend_to(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attend to all frames, without a mask; queries are scaled."""
    # In bfloat16 torch's own kernel is faster, since it uses AMX.
    to_all = attention if query.dtype == torch.float32 else attend
    attended_all: Tensor = to_all(query, key, value, heads)
    return attended_all


def attend_to_all(module: Any, states: Tensor, heads: int) -> Tensor:
    """Apply a self-attention module without a mask."""
    query = module.q_proj(states) * module.scaling
    found = attend_to(query, module.k_proj(states), module.v_proj(states), heads)
    projected: Tensor = module.out_proj(found)
    return projected


def attend_with_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend to all frames with a bias [batch, heads, frames, frames] on the scores.

    Queries are scaled. The bias takes memory that grows with the square of the length.
    """
    heads = bias.shape[1]
    return joined(attended(split(query, heads), split(key, heads), split(value, heads), bias))


def by_distance(query: Tensor, places: Tensor) -> Tensor:
    """Return the products of each query with the key of each other frame's distance.

    Args:
        query: [batch, heads, frames, head width].
        places: A key for each distance [..., 2 frames - 1, head width], from n - 1 (a frame before
            the query) to 1 - n.

    Returns:
        [batch, heads, frames, frames]: row i begins at the distance i.
    """
    frames = query.shape[2]
    # With one more key, rows of products are one longer than the distance from row to row, so
    # that the result is a view of them, which a compiler reads without divisions.
    products = query @ nn.functional.pad(places, (0, 0, 1, 0)).transpose(-1, -2)
    rows: Tensor = products.flatten(2)[..., frames:].unflatten(2, (frames, 2 * frames - 1))
    return rows[..., :frames]


def attend_by_distance(
    states: tuple[Tensor, Tensor, Tensor],
    places: Tensor,
    biases: tuple[Tensor, Tensor],
    scaling: float,
) -> Tensor:
    """Attend with products of queries and distances, as Transformer-XL does.

    Args:
        states: Queries, keys and values.
        places: A key for each distance, [1, heads, 2 frames - 1, head width].
        biases: [heads, head width], added to queries for keys, and for distances.
        scaling: Factor of the scores.
    """
    query, key, value = states
    by_content, by_place = ((query + bias.to(query.dtype).flatten()) * scaling for bias in biases)
    bias = by_distance(split(by_place, places.shape[1]), places)
    return attend_with_bias(by_content, key, value, bias)


def glu_convolutions(
    module: Any, states: Tensor, norm: Callable[[Tensor], Tensor], before: int = 0
) -> Tensor:
    """Apply the convolutions of a conformer's layer to normalised states.

    Args:
        module: The layer's module of convolutions.
        states: Its normalised input.
        norm: Applies the norm inside it.
        before: Frames of zeros before the depthwise convolution, besides its own padding.
    """
    hidden = nn.functional.glu(convolve(module.pointwise_conv1, states), dim=-1)
    if before:
        hidden = nn.functional.pad(hidden, (0, 0, before, 0))
    hidden = norm(convolve(module.depthwise_conv, hidden))
    return convolve(module.pointwise_conv2, module.activation(hidden))


def feed_forward(module: Any, states: Tensor) -> Tensor:
    """Apply a layer's feed-forward block, without its residual."""
    inner = module.intermediate_act_fn(module.intermediate_dense(states))
    output: Tensor = module.output_dense(inner)
    return output


def run_layers(
    layers: Any, run: Callable[[Any, Tensor], Tensor], hidden: Tensor, num_layers: int | None
) -> Tensor:
    """Apply an encoder's layers.

    Args:
        layers: Its layers.
        run: Applies one.
        hidden: States [batch, frames, width].
        num_layers: Number of layers to run, with marked boundaries; None: all, unmarked.
    """
    for layer in layers[:num_layers]:
        hidden = run(layer, mark(hidden, num_layers))
    return mark(hidden, num_layers)
