"""Whisper cut into graphs with caches of fixed length, for ahead-of-time compilation.

The encoder also computes the cross-attention keys and values of every decoder layer, once per
window for all beams. The decoder takes one or several tokens and writes their keys and values in
place, so that one compiled graph works for every length.
"""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import (
    CACHE_DTYPE,
    SCALE_BYTES,
    attend,
    attention,
    keep_window,
    step_attention,
    window_attention,
)
from exporter.families.graph import Graph
from exporter.families.whisper.graphs.layers import embed, encode, feed_forward, meta, shapes
from exporter.runtime.whisper.engine import query_name


class CrossEncoder(nn.Module):
    """input_features -> cross_cache [batch, 2 * layers, heads, source, head_dim + 4], in int8.

    The batch is the first axis, as in any encoder output, so that windows can be selected.
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
        hidden = encode(self.encoder, inputs[0], self._attend)
        projections = [p for a in self.attentions for p in (a.k_proj, a.v_proj)]
        batch, source, width = hidden.shape
        shape = (batch, len(projections), self.heads, source, width // self.heads + SCALE_BYTES)
        cross = hidden.new_empty(shape, dtype=torch.uint8)
        for index, projection in enumerate(projections):
            keep_window(projection(hidden).float().contiguous(), cross, index)
        return (cross,)

    def _attend(self, layer: Any, states: Tensor) -> Tensor:
        # In bfloat16 torch's own kernel is faster, since it uses AMX.
        to_all = attention if states.dtype == torch.float32 else attend
        query = layer.q_proj(states) * layer.scaling
        attended = to_all(query, layer.k_proj(states), layer.v_proj(states), self.encoder_heads)
        projected: Tensor = layer.out_proj(attended)
        return projected


class StepDecoder(nn.Module):
    """Decodes one or several tokens with static caches; see the attention operators.

    Takes input_ids [rows, tokens], the position [1] of the first, cross_cache as above, ancestors
    [rows, max_target_positions] and per layer the key and value caches [rows, heads,
    max_target_positions, head_dim], which it writes; returns float32 logits [rows, tokens,
    vocabulary], and every layer's queries of the audio [rows, tokens, width], from which the times
    of words are computed. Rows of one window are consecutive.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.proj_out = model.proj_out

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, position, cross, ancestors, *cache = inputs
        hidden = embed(self.decoder, ids, position + torch.arange(ids.shape[1], device=ids.device))
        queries: list[Tensor] = []
        for index, layer in enumerate(self.decoder.layers):
            attention, states = layer.self_attn, layer.self_attn_layer_norm(hidden)
            query = (attention.q_proj(states) * attention.scaling).float()
            key, value = attention.k_proj(states).float(), attention.v_proj(states).float()
            own = cache[2 * index : 2 * index + 2]
            attended = step_attention(query, key, value, *own, ancestors, position)
            hidden = hidden + attention.out_proj(attended.to(hidden.dtype))
            attention, states = layer.encoder_attn, layer.encoder_attn_layer_norm(hidden)
            query = (attention.q_proj(states) * attention.scaling).float()
            queries.append(query)
            attended = window_attention(query, cross, index)
            hidden = hidden + attention.out_proj(attended.to(hidden.dtype))
            hidden = feed_forward(layer, hidden)
        return self.proj_out(self.decoder.layer_norm(hidden)).float(), *queries


def static_graphs(model: Any) -> list[Graph]:
    """Return the encoder with its cross-attention cache, and the decoder of a step."""
    features, hidden, cache = shapes(model)
    layers, positions = model.config.decoder_layers, cache[2]
    cross = (2, 2 * layers, cache[1], hidden[1], cache[3] + SCALE_BYTES)
    names = [f"cache.{index}.{leaf}" for index in range(layers) for leaf in ("key", "value")]
    rows = (4, *cache[1:])
    caches = {name: meta(rows, CACHE_DTYPE) for name in names}
    batched = {name: {0: "rows"} for name in ("ancestors", *names)}
    queries = {query_name(index): ("rows", "tokens", hidden[2]) for index in range(layers)}
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
                "input_ids": meta((4, 3), torch.int64),
                "position": meta((1,), torch.int64),
                "cross_cache": meta(cross, torch.uint8),
                "ancestors": meta((4, positions), torch.int32),
                **caches,
            },
            {**batched, "input_ids": {0: "rows", 1: "tokens"}, "cross_cache": {0: "batch"}},
            {"logits": ("rows", "tokens", model.config.vocab_size), **queries},
            mutated=tuple(names),
        ),
    ]
