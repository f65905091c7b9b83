"""Whisper cut into graphs, on the transformers model's own submodules.

This module has the encoder and one merged decoder with a growing cache, in the form that optimum
and transformers.js load. Embedding tables and convolution kernels may be stored in fewer bits than
the graph computes in: they are converted where they are used.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import attention, cross_attention, split
from exporter.families.graph import Graph, Shape, alike, layer_of, mark, single_layer_of
from exporter.families.whisper.graphs.layers import (
    _attend,
    embed,
    encode,
    feed_forward,
    logits,
    merge,
    meta,
    shapes,
)


class Encoder(nn.Module):
    """input_features [batch, mels, frames] -> last_hidden_state [batch, source, width].

    With `num_layers`, it has only so many layers, with marked boundaries.
    """

    def __init__(self, model: Any, num_layers: int | None = None) -> None:
        super().__init__()
        self.encoder: Any = model.model.encoder
        self.heads = model.config.encoder_attention_heads
        self._num_layers = num_layers

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (encode(self.encoder, inputs[0], self._attend, self._num_layers),)

    def _attend(self, layer: Any, states: Tensor) -> Tensor:
        query = layer.q_proj(states) * layer.scaling
        attended = attention(query, layer.k_proj(states), layer.v_proj(states), self.heads)
        projected: Tensor = layer.out_proj(attended)
        return projected


class MergedDecoder(nn.Module):
    """The first and all later steps in one graph; the self-attention cache grows by `tokens`.

    Takes input_ids, encoder_hidden_states, the past (per layer: decoder key and value, encoder key
    and value) and use_cache_branch; returns logits and the present in the same order. With
    `num_layers`, it has only so many layers, with marked boundaries.
    """

    def __init__(self, model: Any, num_layers: int | None = None) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.proj_out = model.proj_out
        self.heads = model.config.decoder_attention_heads
        self._num_layers = num_layers

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, encoded, *past, cached = inputs
        length = past[0].shape[2] + ids.shape[1]
        positions = torch.arange(past[0].shape[2], length, device=ids.device)
        seen = positions[:, None] >= torch.arange(length, device=ids.device)[None]
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        hidden = embed(self.decoder, ids, positions)
        present: list[Tensor] = []
        for index, layer in enumerate(self.decoder.layers[: self._num_layers]):
            hidden = mark(hidden, self._num_layers)
            key, value, cross_key, cross_value = past[4 * index : 4 * index + 4]
            states = layer.self_attn_layer_norm(hidden)
            query, new_key, new_value = self._project(layer.self_attn, states)
            key, value = torch.cat([key, new_key], 2), torch.cat([value, new_value], 2)
            hidden = hidden + merge(layer.self_attn, _attend(query, key, value, mask))
            states = layer.encoder_attn_layer_norm(hidden)
            attended, cross_key, cross_value = cross_attention(
                layer.encoder_attn.q_proj(states) * layer.encoder_attn.scaling,
                cross_key,
                cross_value,
                split(layer.encoder_attn.k_proj(encoded), self.heads),
                split(layer.encoder_attn.v_proj(encoded), self.heads),
                cached,
            )
            hidden = feed_forward(layer, hidden + layer.encoder_attn.out_proj(attended))
            present += [key, value, cross_key, cross_value]
        hidden = mark(hidden, self._num_layers)
        return logits(self.decoder, self.proj_out, hidden), *present

    def _project(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            split(attention.q_proj(states) * attention.scaling, self.heads),
            split(attention.k_proj(states), self.heads),
            split(attention.v_proj(states), self.heads),
        )


def dynamic_graphs(model: Any) -> list[Graph]:
    """Return the encoder and the merged decoder, with the names of optimum's loader."""
    config, dtype = model.config, model.model.encoder.layer_norm.weight.dtype
    features, hidden, cache = shapes(model)
    past_length = 3
    inputs = {
        "input_ids": meta((2, 2), torch.int64),
        "encoder_hidden_states": meta(hidden, dtype),
    }
    dynamic = {"input_ids": {0: "batch", 1: "tokens"}, "encoder_hidden_states": {0: "batch"}}
    outputs: dict[str, Shape] = {"logits": ("batch", "tokens", config.vocab_size)}
    for side, length, axis, grown in (
        ("decoder", past_length, "past", "past + tokens"),
        ("encoder", hidden[1], "encoder_past", "encoder_present"),
    ):
        for index in range(config.decoder_layers):
            for leaf in ("key", "value"):
                name = f"{index}.{side}.{leaf}"
                inputs[f"past_key_values.{name}"] = meta((2, cache[1], length, cache[3]), dtype)
                dynamic[f"past_key_values.{name}"] = {0: "batch", 2: axis}
                outputs[f"present.{name}"] = ("batch", cache[1], grown, cache[3])
    # Loaders match cache tensors to inputs in the graph's order: layer by layer.
    order = [*sorted(inputs, key=layer_of), "use_cache_branch"]
    inputs["use_cache_branch"] = meta((1,), torch.bool)
    ordered = dict(sorted(outputs.items(), key=lambda item: layer_of(item[0])))
    encoder = Graph(
        "encoder_model",
        Encoder(model),
        {"input_features": meta(features, dtype)},
        {"input_features": {0: "batch"}},
        {"last_hidden_state": ("batch", *hidden[1:])},
    )
    decoder = Graph(
        "decoder_model_merged",
        MergedDecoder(model),
        {name: inputs[name] for name in order},
        dynamic,
        ordered,
    )
    if alike(model.model.encoder.layers):
        first = replace(encoder, module=Encoder(model, num_layers=1))
        encoder = replace(encoder, single_layer=first, num_layers=config.encoder_layers)
    if alike(model.model.decoder.layers):
        first = replace(single_layer_of(decoder), module=MergedDecoder(model, num_layers=1))
        decoder = replace(decoder, single_layer=first, num_layers=config.decoder_layers)
    return [encoder, decoder]
