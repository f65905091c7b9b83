"""The graph of wav2vec 2.0 and its relatives: raw samples to logits.

It computes what transformers' forward does without a mask and in evaluation, except that the layer
drop, which draws a random number in every layer, is left out.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.ctc.graphs.layers import attend_to_all, convolve, feed_forward
from exporter.families.graph import Graph, alike, mark

INPUT, OUTPUT = "input_values", "logits"
_EXAMPLE_FRAMES = 12


class Logits(nn.Module):
    """input_values [batch, samples] -> logits [batch, frames, vocabulary].

    With `num_layers`, it has only so many layers, with marked boundaries.
    """

    def __init__(self, model: Any, num_layers: int | None = None) -> None:
        super().__init__()
        self.model = model
        self._num_layers = num_layers

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        core = getattr(model, model.base_model_prefix)
        dtype = core.encoder.layer_norm.weight.dtype
        hidden = front_end(core.feature_extractor.conv_layers, inputs[0].to(dtype))
        hidden = _project(core.feature_projection, hidden)
        return (model.lm_head(encode(model.config, core.encoder, hidden, self._num_layers)),)


def front_end(layers: Any, samples: Tensor) -> Tensor:
    """Apply the stack of convolutions to samples [batch, samples]."""
    hidden = samples[..., None]
    for layer in layers:
        hidden = convolve(layer.conv, hidden)
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):  # a group is a channel: statistics over all frames
            hidden = norm(hidden.transpose(1, 2)).transpose(1, 2)
        elif norm is not None:
            hidden = norm(hidden)
        hidden = layer.activation(hidden)
    return hidden


def _project(projection: Any, hidden: Tensor) -> Tensor:
    norm = getattr(projection, "layer_norm", None)
    projected: Tensor = projection.projection(hidden if norm is None else norm(hidden))
    return projected


def encode(config: Any, encoder: Any, hidden: Tensor, num_layers: int | None) -> Tensor:
    """Add positions and apply the layers, which normalise first (`do_stable_layer_norm`) or last.

    Args:
        config: The model's config.
        encoder: The encoder of a transformers model.
        hidden: Projected features [batch, frames, width].
        num_layers: Number of layers to run, with marked boundaries; None: all, unmarked.
    """
    first = bool(getattr(config, "do_stable_layer_norm", False))
    run = _first_layer if first else _last_layer
    hidden = hidden + _positions(encoder.pos_conv_embed, hidden)
    hidden = hidden if first else encoder.layer_norm(hidden)
    for layer in encoder.layers[:num_layers]:
        hidden = run(layer, mark(hidden, num_layers), config.num_attention_heads)
    hidden = mark(hidden, num_layers)
    return encoder.layer_norm(hidden) if first else hidden


def _positions(embedding: Any, hidden: Tensor) -> Tensor:
    """Return the positional embedding: one convolution with a long kernel, or a stack of them."""
    norm = getattr(embedding, "batch_norm", None)
    hidden = hidden if norm is None else norm.frames(hidden)
    for layer in getattr(embedding, "layers", [embedding]):
        hidden = convolve(layer.conv, hidden)
        if layer.padding.num_pad_remove:
            hidden = hidden[:, : -layer.padding.num_pad_remove]
        if hasattr(layer, "layer_norm"):
            hidden = layer.layer_norm(hidden)
        hidden = layer.activation(hidden)
    return hidden


def _last_layer(layer: Any, hidden: Tensor, heads: int) -> Tensor:
    hidden = layer.layer_norm(hidden + attend_to_all(layer.attention, hidden, heads))
    normed: Tensor = layer.final_layer_norm(hidden + feed_forward(layer.feed_forward, hidden))
    return normed


def _first_layer(layer: Any, hidden: Tensor, heads: int) -> Tensor:
    hidden = hidden + attend_to_all(layer.attention, layer.layer_norm(hidden), heads)
    hidden = hidden + feed_forward(layer.feed_forward, layer.final_layer_norm(hidden))
    adapter = getattr(layer, "adapter_layer", None)
    return hidden if adapter is None else hidden + adapter(hidden)


def graph(model: Any, samples: int) -> Graph:
    """Return the only graph of a model whose first frame takes so many samples."""
    length = samples + (_EXAMPLE_FRAMES - 1) * model.config.inputs_to_logits_ratio
    whole = Graph(
        "model",
        Logits(model),
        {INPUT: torch.empty((2, length), device="meta")},
        {INPUT: {0: "batch", 1: "samples"}},
        {OUTPUT: ("batch", "frames", model.config.vocab_size)},
        least={"samples": samples},
    )
    layers = getattr(model, model.base_model_prefix).encoder.layers
    if not alike(layers):
        return whole
    single = replace(whole, module=Logits(model, num_layers=1))
    return replace(whole, single_layer=single, num_layers=len(layers))
