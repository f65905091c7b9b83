"""Whisper cut into graphs, on the transformers model's own submodules.

Here: an encoder and one merged decoder with a growing cache, in the form that optimum and
transformers.js load, and the pieces that every cut is made of. Embedding tables and convolution
kernels may be stored in fewer bits than the graph computes in: they are widened where they are
used.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import attention, split
from exporter.families.graph import Graph, Shape, alike, first_layer, layer_boundary, layer_of


@torch.library.custom_op("exporter::cross_attention", mutates_args=())
def cross_attention(
    query: Tensor, past_key: Tensor, past_value: Tensor, key: Tensor, value: Tensor, cached: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the past keys and values if `cached` [1], else to the new ones.

    Queries are [batch, length, width], keys and values [batch, heads, length, head_dim]. Gives the
    attention's output and the keys and values to keep: the new ones, or empty ones when the past is
    used, so that a cache of 100 MB is not copied for every token. The past may have fewer rows
    than the queries: row r then belongs to past r // (rows / pasts), as a window's hypotheses do.
    One operator, so that the ONNX target can put the new projections inside an `If` (`torch.cond`
    refuses branches of different shapes).
    """
    if bool(cached):
        empty = key[:, :, :0]
        grouped = query.reshape(past_key.shape[0], -1, query.shape[-1])
        attended = attention(grouped, past_key, past_value, key.shape[1])
        return attended.reshape(query.shape), empty.clone(), empty.clone()
    return attention(query, key, value, key.shape[1]), key.clone(), value.clone()


@cross_attention.register_fake
def _(
    query: Tensor, _past_key: Tensor, _past_value: Tensor, key: Tensor, value: Tensor, _: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class Encoder(nn.Module):
    """input_features [batch, mels, frames] -> last_hidden_state [batch, source, width].

    With `depth`, through so many layers only, their boundaries marked.
    """

    def __init__(self, model: Any, depth: int | None = None) -> None:
        super().__init__()
        self.encoder: Any = model.model.encoder
        self.heads = model.config.encoder_attention_heads
        self._depth = depth

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (encode(self.encoder, inputs[0], self._attend, self._depth),)

    def _attend(self, layer: Any, states: Tensor) -> Tensor:
        query = layer.q_proj(states) * layer.scaling
        attended = attention(query, layer.k_proj(states), layer.v_proj(states), self.heads)
        projected: Tensor = layer.out_proj(attended)
        return projected


class MergedDecoder(nn.Module):
    """First step and every later one in one graph, the self-attention cache growing by `tokens`.

    Takes input_ids, encoder_hidden_states, the past (per layer: decoder key and value, encoder key
    and value) and use_cache_branch; gives logits and the present in the same order. With `depth`,
    through so many layers only, their boundaries marked.
    """

    def __init__(self, model: Any, depth: int | None = None) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.proj_out = model.proj_out
        self.heads = model.config.decoder_attention_heads
        self._depth = depth

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, encoded, *past, cached = inputs
        length = past[0].shape[2] + ids.shape[1]
        positions = torch.arange(past[0].shape[2], length, device=ids.device)
        seen = positions[:, None] >= torch.arange(length, device=ids.device)[None]
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        hidden = embed(self.decoder, ids, positions)
        present: list[Tensor] = []
        for index, layer in enumerate(self.decoder.layers[: self._depth]):
            hidden = mark(hidden, self._depth)
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
        hidden = mark(hidden, self._depth)
        return self.proj_out(self.decoder.layer_norm(hidden)), *present

    def _project(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            split(attention.q_proj(states) * attention.scaling, self.heads),
            split(attention.k_proj(states), self.heads),
            split(attention.v_proj(states), self.heads),
        )


def dynamic_graphs(model: Any) -> list[Graph]:
    """The encoder and the merged decoder, named as optimum's loader expects them."""
    config = model.config
    features, hidden, cache = shapes(model)
    past_length = 3
    inputs = {
        "input_ids": meta((2, 2), torch.int64),
        "encoder_hidden_states": meta(hidden),
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
                inputs[f"past_key_values.{name}"] = meta((2, cache[1], length, cache[3]))
                dynamic[f"past_key_values.{name}"] = {0: "batch", 2: axis}
                outputs[f"present.{name}"] = ("batch", cache[1], grown, cache[3])
    # Loaders zip the cache to the inputs in the order of the graph: layer by layer.
    order = [*sorted(inputs, key=layer_of), "use_cache_branch"]
    inputs["use_cache_branch"] = meta((1,), torch.bool)
    ordered = dict(sorted(outputs.items(), key=lambda item: layer_of(item[0])))
    encoder = Graph(
        "encoder_model",
        Encoder(model),
        {"input_features": meta(features)},
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
        first = replace(encoder, module=Encoder(model, depth=1))
        encoder = replace(encoder, first=first, depth=config.encoder_layers)
    if alike(model.model.decoder.layers):
        first = replace(first_layer(decoder), module=MergedDecoder(model, depth=1))
        decoder = replace(decoder, first=first, depth=config.decoder_layers)
    return [encoder, decoder]


def shapes(
    model: Any,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Example shapes of the features, the encoder's output and a full self-attention cache."""
    config = model.config
    encoder = model.model.encoder
    frames = config.max_source_positions * encoder.conv1.stride[0] * encoder.conv2.stride[0]
    heads = config.decoder_attention_heads
    return (
        (2, config.num_mel_bins, frames),
        (2, config.max_source_positions, config.d_model),
        (2, heads, config.max_target_positions, config.d_model // heads),
    )


def meta(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def encode(
    encoder: Any,
    features: Tensor,
    attend: Callable[[Any, Tensor], Tensor],
    depth: int | None = None,
) -> Tensor:
    """[batch, mels, frames] -> [batch, source, width], as transformers' encoder does it.

    `attend` is a layer's whole self-attention of [batch, source, width].
    """
    dtype = encoder.layer_norm.weight.dtype
    hidden = features.to(dtype)
    for conv in (encoder.conv1, encoder.conv2):
        kernel, bias = conv.weight.to(dtype), conv.bias.to(dtype)
        hidden = nn.functional.conv1d(hidden, kernel, bias, conv.stride, conv.padding)
        hidden = nn.functional.gelu(hidden)
    hidden = hidden.transpose(1, 2) + encoder.embed_positions.weight.to(dtype)
    for layer in encoder.layers[:depth]:
        hidden = mark(hidden, depth)
        states = layer.self_attn_layer_norm(hidden)
        hidden = feed_forward(layer, hidden + attend(layer.self_attn, states))
    normed: Tensor = encoder.layer_norm(mark(hidden, depth))
    return normed


def mark(hidden: Tensor, depth: int | None) -> Tensor:
    """Mark a layer's boundary in graphs that are to be repeated; others know nothing of it."""
    marked: Tensor = hidden if depth is None else layer_boundary(hidden)
    return marked


def embed(decoder: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Token and position embeddings [batch, tokens, width]."""
    tables = (decoder.embed_tokens.weight, ids), (decoder.embed_positions.weight, positions)
    tokens, places = (nn.functional.embedding(rows, table) for table, rows in tables)
    dtype = decoder.layer_norm.weight.dtype
    return tokens.to(dtype) + places.to(dtype)


def merge(attention: Any, attended: Tensor) -> Tensor:
    """[batch, heads, length, head_dim] -> the output projection of [batch, length, width]."""
    merged: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return merged


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention in separate steps, which ONNX runtimes of all ages know."""
    scores = query @ key.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights @ value


def feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    states = layer.fc1(layer.final_layer_norm(hidden))
    output: Tensor = hidden + layer.fc2(layer.activation_fn(states))
    return output
