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


def shifted(scores: Tensor) -> Tensor:
    """Return the scores of each query for each key, of those for each distance.

    Args:
        scores: [batch, heads, frames, 2 frames - 1], for distances n - 1 (a key before its query)
            to 1 - n.

    Returns:
        [batch, heads, frames, frames]: row i begins at the distance i.
    """
    batch, heads, frames, _ = scores.shape
    rows = nn.functional.pad(scores, (1, 0)).reshape(batch, heads, 2 * frames, frames)
    return rows[:, :, 1:].reshape(batch, heads, frames, 2 * frames - 1)[..., :frames]


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
