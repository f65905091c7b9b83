"""Whisper's decoder with caches written in place, for our own ONNX sessions.

It consists of two graphs that share the merged decoder's weights. One computes a window's
cross-attention cache, in int8 if the weights are; the other decodes a step and writes the tokens'
keys and values into caches of fixed length.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import (
    quantized_channels,
    shared_attention,
    shared_cross_attention,
    split,
)
from exporter.families.graph import WRITTEN, Graph, Shape, alike, mark, single_layer_of
from exporter.families.whisper.graphs.layers import embed, feed_forward, logits, meta, shapes
from exporter.runtime.whisper.engine import query_name

WEIGHTS_FROM = "decoder_model_merged"


class CrossCache(nn.Module):
    """encoder_hidden_states of one window -> per layer key and value [1, heads, source, head_dim].

    They are floats, or with `narrow` int8, with their scales [1, 1, width] after them. Products
    round all that they are given with one scale, so several windows would depend on each other.
    """

    def __init__(self, model: Any, *, narrow: bool) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.heads = model.config.decoder_attention_heads
        self.narrow = narrow

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        caches: list[Tensor] = []
        for layer in self.decoder.layers:
            attention = layer.encoder_attn
            states = [attention.k_proj(inputs[0]), attention.v_proj(inputs[0])]
            scales: list[Tensor] = []
            if self.narrow:
                pairs = [quantized_channels(each) for each in states]
                states = [codes for codes, _ in pairs]
                scales = [scale for _, scale in pairs]
            caches += [*(split(each, self.heads) for each in states), *scales]
        return tuple(caches)


class Step(nn.Module):
    """Computes the logits [rows, tokens, vocabulary] after each token, and the new caches.

    The queries [rows, tokens, width] of the attention to the audio are outputs as well, from which
    the times of words are computed: they exist anyway, so that no node is added for them.

    Takes input_ids [rows, tokens], own_last int32 [rows], the last token's position, cross_last
    int32 [windows], the audio's last; and per layer the tokens' caches and those of the audio. With
    `num_layers`, it has only so many layers, with marked boundaries.
    """

    def __init__(self, model: Any, num_layers: int | None = None) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.proj_out = model.proj_out
        self._num_layers = num_layers
        self._caches = 6 if _narrow(model) else 4

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, own_last, cross_last, *caches = inputs
        tokens = ids.shape[1]
        positions = own_last[:1] + torch.arange(1 - tokens, 1, device=ids.device)
        hidden = embed(self.decoder, ids, positions)
        present: list[Tensor] = []
        for index, layer in enumerate(self.decoder.layers[: self._num_layers]):
            hidden = mark(hidden, self._num_layers)
            start = self._caches * index
            key, value, *cross = caches[start : start + self._caches]
            attention = layer.self_attn
            states = layer.self_attn_layer_norm(hidden)
            query = attention.q_proj(states) * attention.scaling
            new = attention.k_proj(states), attention.v_proj(states)
            attended, *own = shared_attention(query, *new, key, value, own_last)
            hidden = hidden + attention.out_proj(attended)
            attention = layer.encoder_attn
            query = attention.q_proj(layer.encoder_attn_layer_norm(hidden)) * attention.scaling
            attended, *same = shared_cross_attention(query, *cross[:2], cross[2:], cross_last)
            hidden = feed_forward(layer, hidden + attention.out_proj(attended))
            present += [*own, *same, query]
        hidden = mark(hidden, self._num_layers)
        return logits(self.decoder, self.proj_out, hidden), *present


def step_graphs(model: Any) -> list[Graph]:
    """Return the graphs `cross_cache` and `step`.

    Their names do not contain "decoder", because optimum takes any other file with that word in its
    name for a decoder.
    """
    num_layers, narrow = model.config.decoder_layers, _narrow(model)
    _, hidden, (_, heads, length, dim) = shapes(model)
    cross = cross_cache_graph(model, narrow=narrow)
    inputs = {
        "input_ids": meta((2, 2), torch.int64),
        "own_last": meta((2,), torch.int32),
        "cross_last": meta((2,), torch.int32),
    }
    dynamic = {
        "input_ids": {0: "rows", 1: "tokens"},
        "own_last": {0: "rows"},
        "cross_last": {0: "windows"},
    }
    outputs: dict[str, Shape] = {"logits": ("rows", "tokens", model.config.vocab_size)}
    for index in range(num_layers):
        for leaf in ("key", "value"):
            name = f"own.{index}.{leaf}"
            inputs[name], dynamic[name] = meta((2, heads, length, dim)), {0: "rows"}
            outputs[f"{name}{WRITTEN}"] = ("rows", heads, length, dim)
        for leaf in ("key", "value"):
            name = f"cross.{index}.{leaf}"
            outputs[f"{name}{WRITTEN}"] = ("windows", heads, hidden[1], dim)
            inputs[name] = meta((2, heads, hidden[1], dim), torch.int8 if narrow else torch.float32)
            dynamic[name] = {0: "windows"}
        outputs[query_name(index)] = ("rows", "tokens", model.config.d_model)
        for name in (f"cross.{index}.{leaf}_scale" for leaf in ("key", "value") if narrow):
            inputs[name] = meta((2, 1, model.config.d_model))
            dynamic[name] = {0: "windows"}
    step = Graph("step", Step(model), inputs, dynamic, outputs, weights_from=WEIGHTS_FROM)
    if alike(model.model.decoder.layers):
        step = replace(
            step,
            single_layer=replace(single_layer_of(step), module=Step(model, num_layers=1)),
            num_layers=num_layers,
        )
    return [cross, step]


def cross_cache_graph(model: Any, *, narrow: bool) -> Graph:
    """Return the graph `cross_cache`, whose outputs are those that `step` takes, by their names."""
    _, hidden, (_, heads, _, dim) = shapes(model)
    produced: dict[str, Shape] = {}
    for index in range(model.config.decoder_layers):
        for leaf in ("key", "value"):
            produced[f"cross.{index}.{leaf}"] = (1, heads, hidden[1], dim)
        for leaf in ("key", "value") if narrow else ():
            produced[f"cross.{index}.{leaf}_scale"] = (1, 1, model.config.d_model)
    dtype = model.model.encoder.layer_norm.weight.dtype
    encoded = {"encoder_hidden_states": meta((1, *hidden[1:]), dtype)}
    module = CrossCache(model, narrow=narrow)
    return Graph("cross_cache", module, encoded, {}, produced, weights_from=WEIGHTS_FROM)


def _narrow(model: Any) -> bool:
    """Return whether the audio's keys and values come from int8 weights, and so may be int8."""
    weight: Tensor = model.model.decoder.layers[0].encoder_attn.k_proj.weight
    return not weight.dtype.is_floating_point
