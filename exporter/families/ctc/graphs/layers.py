"""Layers that the graphs of CTC models share; all states are [batch, frames, channels]."""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import attend, attention


def convolve(module: Any, states: Tensor) -> Tensor:
    """Apply a one-dimensional convolution to [batch, frames, channels].

    The kernel may be stored in fewer bits than the graph computes in. A quantized convolution is
    a product over unfolded frames, and takes this layout by its method `frames`.
    """
    if hasattr(module, "frames"):
        own: Tensor = module.frames(states)
        return own
    bias = None if module.bias is None else module.bias.to(states.dtype)
    convolved = nn.functional.conv1d(
        states.transpose(1, 2),
        module.weight.to(states.dtype),
        bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )
    return convolved.transpose(1, 2)


def attend_to_all(module: Any, states: Tensor, heads: int) -> Tensor:
    """Apply a self-attention module without a mask."""
    # In bfloat16 torch's own kernel is faster, since it uses AMX.
    to_all = attention if states.dtype == torch.float32 else attend
    query = module.q_proj(states) * module.scaling
    attended = to_all(query, module.k_proj(states), module.v_proj(states), heads)
    projected: Tensor = module.out_proj(attended)
    return projected


def feed_forward(module: Any, states: Tensor) -> Tensor:
    """Apply a layer's feed-forward block, without its residual."""
    inner = module.intermediate_act_fn(module.intermediate_dense(states))
    output: Tensor = module.output_dense(inner)
    return output
