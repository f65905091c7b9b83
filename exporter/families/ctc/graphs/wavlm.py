"""WavLM: wav2vec 2.0 whose attention has a gated bias for the distance of two frames.

The bias comes from a table in the first layer, and all layers share it, each with its own gate.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from exporter.families.attention import attended, joined, split
from exporter.families.ctc.graphs.layers import attend_with_bias, core
from exporter.families.ctc.graphs.positions import relative
from exporter.families.ctc.graphs.wav2vec2 import encode, projected

TABLE = "attention.rel_attn_embed"
"""The module that only the first layer has."""


def logits(model: Any, samples: Tensor, num_layers: int | None) -> Tensor:
    """Return logits [batch, frames, vocabulary] for samples [batch, samples]."""
    hidden = projected(model, samples)
    bias = _bias(core(model).encoder.layers[0].attention, hidden)
    attend = partial(_attend, bias=bias)
    found: Tensor = model.lm_head(encode(model, hidden, num_layers, attend))
    return found


def _bias(module: Any, hidden: Tensor) -> Tensor:
    """Return the bias [heads, frames, frames] of every key for every query."""
    frames = hidden.shape[1]
    distances = -relative(frames, hidden.device)
    table = module.rel_attn_embed.weight.to(hidden.dtype)[_bucket(module, distances)]
    places = torch.arange(frames, device=hidden.device)
    rows = places[None] - places[:, None] + frames - 1
    bias: Tensor = table.transpose(0, 1)[:, rows]
    return bias


def _bucket(module: Any, distances: Tensor) -> Tensor:
    """Return the table's row of each distance: exact for small ones, then logarithmic."""
    side = module.num_buckets // 2
    exact = side // 2
    far = distances.abs()
    steps = torch.log(far.clamp_min(1).float() / exact) / math.log(module.max_distance / exact)
    large = exact + steps * (side - exact)
    row = torch.where(far < exact, far, large.to(torch.int64).clamp_max(side - 1))
    found: Tensor = row + (distances > 0).to(torch.int64) * side
    return found


def _attend(module: Any, states: Tensor, bias: Tensor) -> Tensor:
    """Apply a self-attention module with its gate on the bias."""
    query = module.q_proj(states) * module.scaling
    gated = _gate(module, states) * bias
    found = attend_with_bias(query, module.k_proj(states), module.v_proj(states), gated)
    projected_back: Tensor = module.out_proj(found)
    return projected_back


def _gate(module: Any, states: Tensor) -> Tensor:
    """Return the factor of the bias for each head and query, [batch, heads, frames, 1]."""
    parts = module.gru_rel_pos_linear(split(states, module.num_heads))
    first, second = parts.unflatten(-1, (2, 4)).sum(-1).sigmoid().split(1, -1)
    factor: Tensor = first * (second * module.gru_rel_pos_const.to(states.dtype) - 1.0) + 2.0
    return factor


class OwnAttention(WavLMAttention):  # type: ignore[misc]
    """transformers' attention, whose projections may be other modules than `nn.Linear`.

    transformers gives their weights to `torch.nn.functional.multi_head_attention_forward`.
    """

    def torch_multi_head_self_attention(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        gated_position_bias: Tensor,
        output_attentions: bool = True,  # newer releases of transformers always want the weights
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = (
            split(project(hidden_states), self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.unflatten(0, (-1, self.num_heads))
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None], -math.inf)
        query = query * self.scaling
        weights = None
        if output_attentions:  # transformers returns their mean over all heads, for each of them
            weights = nn.functional.softmax(query @ key.transpose(2, 3) + bias, -1)
            weights = weights.mean(1, keepdim=True).expand_as(weights)
        return self.out_proj(joined(attended(query, key, value, bias))), weights


def own_attention(model: Any) -> None:
    """Make a model's attention modules compute with whatever modules are in them."""
    for layer in core(model).encoder.layers:
        layer.attention.__class__ = OwnAttention
