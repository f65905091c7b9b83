"""wav2vec 2.0 and its relatives: raw samples to logits.

They compute what transformers' forward does without a mask and in evaluation, except that the layer
drop, which draws a random number in every layer, is left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from exporter.families.ctc.graphs.layers import (
    attend_to_all,
    convolve,
    core,
    feed_forward,
    project,
    run_layers,
)

Attend = Callable[[Any, Tensor], Tensor]
"""Applies a layer's attention module to states."""


def logits(model: Any, samples: Tensor, num_layers: int | None) -> Tensor:
    """Return logits [batch, frames, vocabulary] for samples [batch, samples].

    Args:
        model: The model.
        samples: Its input, in the type in which it computes.
        num_layers: Number of layers to run, with marked boundaries; None: all, unmarked.
    """
    found: Tensor = model.lm_head(encoded(model, samples, num_layers))
    return found


def encoded(model: Any, samples: Tensor, num_layers: int | None) -> Tensor:
    """Return the encoder's outputs [batch, frames, width] for samples [batch, samples]."""
    attend = partial(attend_to_all, heads=model.config.num_attention_heads)
    return encode(model, projected(model, samples), num_layers, attend)


def projected(model: Any, samples: Tensor) -> Tensor:
    """Return the input of the encoder [batch, frames, width] for samples [batch, samples]."""
    whole = core(model)
    return project(
        whole.feature_projection, front_end(whole.feature_extractor.conv_layers, samples)
    )


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


def encode(model: Any, hidden: Tensor, num_layers: int | None, attend: Attend) -> Tensor:
    """Add positions and apply the layers, which normalise first (`do_stable_layer_norm`) or last.

    Args:
        model: The model.
        hidden: Projected features [batch, frames, width].
        num_layers: Number of layers to run, with marked boundaries; None: all, unmarked.
        attend: Applies a layer's attention module.
    """
    encoder = core(model).encoder
    first = bool(getattr(model.config, "do_stable_layer_norm", False))
    run = partial(_first_layer if first else _last_layer, attend=attend)
    hidden = hidden + _positions(encoder.pos_conv_embed, hidden)
    hidden = hidden if first else encoder.layer_norm(hidden)
    hidden = run_layers(encoder.layers, run, hidden, num_layers)
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


def _last_layer(layer: Any, hidden: Tensor, attend: Attend) -> Tensor:
    hidden = layer.layer_norm(hidden + attend(layer.attention, hidden))
    normed: Tensor = layer.final_layer_norm(hidden + feed_forward(layer.feed_forward, hidden))
    return normed


def _first_layer(layer: Any, hidden: Tensor, attend: Attend) -> Tensor:
    hidden = hidden + attend(layer.attention, layer.layer_norm(hidden))
    hidden = hidden + feed_forward(layer.feed_forward, layer.final_layer_norm(hidden))
    adapter = getattr(layer, "adapter_layer", None)
    return hidden if adapter is None else hidden + adapter(hidden)
