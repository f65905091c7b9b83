"""Whisper's decoder on buffers of a device, for ONNX sessions on a GPU.

Nothing is computed from a value on the host, so that a step of single tokens can be captured as a
CUDA graph. `cross_cache` is that of `exporter.families.whisper.graphs.step`, never in int8; `step`
decodes tokens and writes into caches of fixed length; and `gather` copies rows of caches, as a beam
search reorders its hypotheses.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import shared_attention, windows_attention
from exporter.families.graph import WRITTEN, Graph, Shape, alike, mark, single_layer_of
from exporter.families.whisper.graphs.layers import embed, feed_forward, logits, meta, shapes
from exporter.families.whisper.graphs.step import WEIGHTS_FROM, cross_cache_graph
from exporter.runtime.whisper.engine import query_name


class BufferStep(nn.Module):
    """Computes the logits [rows, tokens, vocabulary] after each token, and the new caches.

    The scaled queries [rows, tokens, width] of the attention to the audio are outputs as well.

    Takes input_ids [rows, tokens]; positions int64 [tokens], those of all rows; last int32 [rows],
    the last position of each row; and per layer the key and value caches of the tokens [rows,
    heads, positions, head_dim] and of the audio [windows, heads, source, head_dim]. With
    `num_layers`, it has only so many layers, with marked boundaries.
    """

    def __init__(self, model: Any, num_layers: int | None = None) -> None:
        super().__init__()
        self.decoder: Any = model.model.decoder
        self.proj_out = model.proj_out
        self._num_layers = num_layers

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, positions, last, *caches = inputs
        hidden = embed(self.decoder, ids, positions)
        present: list[Tensor] = []
        for index, layer in enumerate(self.decoder.layers[: self._num_layers]):
            hidden = mark(hidden, self._num_layers)
            own, cross = caches[4 * index : 4 * index + 2], caches[4 * index + 2 : 4 * index + 4]
            attention, states = layer.self_attn, layer.self_attn_layer_norm(hidden)
            query = attention.q_proj(states) * attention.scaling
            new = attention.k_proj(states), attention.v_proj(states)
            attended, *written = shared_attention(query, *new, *own, last)
            hidden = hidden + attention.out_proj(attended)
            attention = layer.encoder_attn
            query = attention.q_proj(layer.encoder_attn_layer_norm(hidden)) * attention.scaling
            hidden = hidden + attention.out_proj(windows_attention(query, *cross))
            hidden = feed_forward(layer, hidden)
            present += [*written, query]
        hidden = mark(hidden, self._num_layers)
        return logits(self.decoder, self.proj_out, hidden), *present


class Gather(nn.Module):
    """caches [caches, before, heads, length, head_dim], rows int64 [rows] -> the chosen rows."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        caches, rows = inputs
        return (caches.index_select(1, rows),)


def buffer_graphs(model: Any) -> list[Graph]:
    """Return the graphs `cross_cache`, `step` and `gather`.

    Their names do not contain "decoder", because optimum takes any other file with that word in its
    name for a decoder.
    """
    return [cross_cache_graph(model, narrow=False), _step_graph(model), _gather_graph(model)]


def _step_graph(model: Any) -> Graph:
    num_layers, dtype = model.config.decoder_layers, model.model.decoder.layer_norm.weight.dtype
    _, hidden, (_, heads, length, dim) = shapes(model)
    inputs = {
        "input_ids": meta((2, 2), torch.int64),
        "positions": meta((2,), torch.int64),
        "last": meta((2,), torch.int32),
    }
    dynamic = {
        "input_ids": {0: "rows", 1: "tokens"},
        "positions": {0: "tokens"},
        "last": {0: "rows"},
    }
    outputs: dict[str, Shape] = {"logits": ("rows", "tokens", model.config.vocab_size)}
    for index in range(num_layers):
        for name in (f"own.{index}.key", f"own.{index}.value"):
            inputs[name], dynamic[name] = meta((2, heads, length, dim), dtype), {0: "rows"}
            outputs[f"{name}{WRITTEN}"] = ("rows", heads, length, dim)
        for name in (f"cross.{index}.key", f"cross.{index}.value"):
            inputs[name], dynamic[name] = meta((2, heads, hidden[1], dim), dtype), {0: "windows"}
        outputs[query_name(index)] = ("rows", "tokens", model.config.d_model)
    step = Graph("step", BufferStep(model), inputs, dynamic, outputs, weights_from=WEIGHTS_FROM)
    if not alike(model.model.decoder.layers):
        return step
    first = replace(single_layer_of(step), module=BufferStep(model, num_layers=1))
    return replace(step, single_layer=first, num_layers=num_layers)


def _gather_graph(model: Any) -> Graph:
    heads, dtype = model.config.decoder_attention_heads, model.model.decoder.layer_norm.weight.dtype
    dim = model.config.d_model // heads
    return Graph(
        "gather",
        Gather(),
        {"caches": meta((4, 3, heads, 5, dim), dtype), "rows": meta((2,), torch.int64)},
        {"caches": {0: "caches", 1: "before", 3: "length"}, "rows": {0: "rows"}},
        {"chosen": ("caches", "rows", heads, "length", dim)},
    )
