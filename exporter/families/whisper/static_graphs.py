"""Whisper cut for a cache of fixed length: what is compiled ahead of time.

The encoder goes on to the cross-attention keys and values of every decoder layer, computed once a
window; the decoder takes one token and writes its keys and values in place, so that one compiled
graph serves every length.
"""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.whisper.graphs import embed, encode, feed_forward, merge, meta, shapes, split
from exporter.graphs import Graph


class CrossEncoder(nn.Module):
    """input_features -> cross_cache [batch, 2 * layers, heads, source, head_dim].

    Batch comes first, so that a beam search can repeat and select it as any encoder output.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder: Any = model.model.encoder
        self.attentions: Any = nn.ModuleList(
            [layer.encoder_attn for layer in model.model.decoder.layers]
        )
        self.encoder_heads = model.config.encoder_attention_heads
        self.heads = model.config.decoder_attention_heads

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden = encode(self.encoder, inputs[0], self.encoder_heads, _fused)
        projections = [
            split(projection(hidden), self.heads)
            for attention in self.attentions
            for projection in (attention.k_proj, attention.v_proj)
        ]
        return (torch.stack(projections, 1),)


class StepDecoder(nn.Module):
    """One token against a static cache.

    Takes input_ids [batch, 1], position [1], cross_cache as above and per layer the key and value
    caches [batch, heads, max_target_positions, head_dim], which it writes at `position`; gives
    float32 logits [batch, 1, vocabulary].
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.proj_out = model.proj_out
        self.heads = model.config.decoder_attention_heads

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, position, cross, *cache = inputs
        hidden = embed(self.decoder, ids, position)
        seen = torch.arange(cache[0].shape[2], device=ids.device) <= position
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min).to(hidden.dtype)
        for index, layer in enumerate(self.decoder.layers):
            key, value = cache[2 * index : 2 * index + 2]
            states = layer.self_attn_layer_norm(hidden)
            attention = layer.self_attn
            query = split(attention.q_proj(states) * attention.scaling, self.heads)
            key.index_copy_(2, position, split(attention.k_proj(states), self.heads))
            value.index_copy_(2, position, split(attention.v_proj(states), self.heads))
            hidden = hidden + merge(attention, _fused(query, key, value, mask[None, None, None]))
            attention = layer.encoder_attn
            states = layer.encoder_attn_layer_norm(hidden)
            query = split(attention.q_proj(states) * attention.scaling, self.heads)
            attended = _fused(query, cross[:, 2 * index], cross[:, 2 * index + 1])
            hidden = feed_forward(layer, hidden + merge(attention, attended))
        return (self.proj_out(self.decoder.layer_norm(hidden)).float(),)


def static_graphs(model: Any) -> list[Graph]:
    """The encoder with its cross-attention cache, and the one-token decoder."""
    features, hidden, cache = shapes(model)
    layers = model.config.decoder_layers
    cross = (2, 2 * layers, cache[1], hidden[1], cache[3])
    names = [f"cache.{index}.{leaf}" for index in range(layers) for leaf in ("key", "value")]
    dtype = model.model.decoder.layer_norm.weight.dtype
    caches = {name: meta(cache, dtype) for name in names}
    batched = {"input_ids", "cross_cache", *names}
    return [
        Graph(
            "encoder",
            CrossEncoder(model),
            {"input_features": meta(features)},
            {"input_features": {0: "batch"}},
            {"cross_cache": ("batch", *cross[1:])},
        ),
        Graph(
            "decoder",
            StepDecoder(model),
            {
                "input_ids": meta((2, 1), torch.int64),
                "position": meta((1,), torch.int64),
                "cross_cache": meta(cross, dtype),
                **caches,
            },
            {name: {0: "batch"} for name in batched},
            {"logits": ("batch", 1, model.config.vocab_size)},
            mutated=tuple(names),
        ),
    ]


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention as torch's own operator; queries are scaled already."""
    return nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
