"""Conformers of the wav2vec 2.0 line: wav2vec2-conformer on samples, wav2vec2-bert on features.

They compute what transformers' forward does in evaluation, without its mask and its layer drop.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import split
from exporter.families.ctc.graphs.layers import (
    attend_by_distance,
    attend_to,
    attend_with_bias,
    by_distance,
    convolve,
    core,
    feed_forward,
    glu_convolutions,
    project,
    run_layers,
)
from exporter.families.ctc.graphs.positions import relative
from exporter.families.ctc.graphs.wav2vec2 import front_end


def logits(model: Any, samples: Tensor, num_layers: int | None) -> Tensor:
    """Return logits [batch, frames, vocabulary] of wav2vec2-conformer for [batch, samples]."""
    whole = core(model)
    encoder = whole.encoder
    hidden = front_end(whole.feature_extractor.conv_layers, samples)
    hidden = project(whole.feature_projection, hidden)
    found: Tensor = model.lm_head(encoder.layer_norm(_encoded(encoder, hidden, num_layers)))
    return found


def logits_of_features(model: Any, features: Tensor, num_layers: int | None) -> Tensor:
    """Return logits [batch, frames, vocabulary] of wav2vec2-bert for [batch, frames, mels]."""
    whole = core(model)
    hidden = project(whole.feature_projection, features)
    hidden = _encoded(whole.encoder, hidden, num_layers)
    if whole.intermediate_ffn is not None:
        hidden = hidden + 0.5 * feed_forward(whole.intermediate_ffn, hidden)
    if whole.adapter is not None:
        hidden = _adapted(whole.adapter, hidden)
    found: Tensor = model.lm_head(hidden)
    return found


def _encoded(encoder: Any, hidden: Tensor, num_layers: int | None) -> Tensor:
    if encoder.config.position_embeddings_type == "relative_key":
        positions = relative(hidden.shape[1], hidden.device)
    elif encoder.embed_positions is not None:
        positions = encoder.embed_positions(hidden)
    else:
        positions = None
    return run_layers(encoder.layers, partial(_layer, positions=positions), hidden, num_layers)


def _layer(layer: Any, hidden: Tensor, positions: Tensor | None) -> Tensor:
    hidden = hidden + 0.5 * feed_forward(layer.ffn1, layer.ffn1_layer_norm(hidden))
    hidden = hidden + _attend(layer.self_attn, layer.self_attn_layer_norm(hidden), positions)
    hidden = hidden + _convolved(layer.conv_module, hidden)
    hidden = hidden + 0.5 * feed_forward(layer.ffn2, layer.ffn2_layer_norm(hidden))
    normed: Tensor = layer.final_layer_norm(hidden)
    return normed


def _attend(module: Any, states: Tensor, positions: Tensor | None) -> Tensor:
    """Apply self-attention with the positions of its type."""
    kind, heads = module.position_embeddings_type, module.num_heads
    turned = states
    if kind == "rotary" and positions is not None:
        turned = _rotated(states, positions, heads)
    query, key = module.linear_q(turned), module.linear_k(turned)
    value = module.linear_v(states)
    scaling = module.head_size**-0.5
    if kind == "relative":
        places = split(module.linear_pos(positions), heads)
        biases = (module.pos_bias_u, module.pos_bias_v)
        attended = attend_by_distance((query, key, value), places, biases, scaling)
    elif kind == "relative_key":
        bias = by_distance(split(query, heads), _distances(module, query, positions))
        attended = attend_with_bias(query * scaling, key, value, bias * scaling)
    else:
        attended = attend_to(query * scaling, key, value, heads)
    projected: Tensor = module.linear_out(attended)
    return projected


def _rotated(states: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Turn each head of [batch, frames, width] by its position."""
    parted = states.unflatten(-1, (heads, -1))
    cosine, sine = positions[0, :, 0], positions[1, :, 0]  # [frames, 1, head width]
    first, second = parted.chunk(2, -1)
    turned: Tensor = (parted * cosine + torch.cat((-second, first), -1) * sine).flatten(2)
    return turned


def _distances(module: Any, query: Tensor, positions: Any) -> Tensor:
    """Return the embedding [distances, head width] of a key's distance from a query, limited."""
    left, right = module.left_max_position_embeddings, module.right_max_position_embeddings
    table: Tensor = module.distance_embedding.weight.to(query.dtype)
    return table[(-positions).clamp(-left, right) + left]


def _convolved(module: Any, states: Tensor) -> Tensor:
    """Apply the convolutions of a layer; with a layer norm inside, they see no later frames."""
    states = module.layer_norm(states)
    norm = getattr(module, "depthwise_layer_norm", None)
    if norm is None:
        return glu_convolutions(module, states, module.batch_norm.frames)
    return glu_convolutions(module, states, norm, module.depthwise_conv.kernel_size[0] - 1)


def _adapted(adapter: Any, hidden: Tensor) -> Tensor:
    """Apply layers that halve the frames, or whatever their stride is."""
    if adapter.proj is not None:
        hidden = adapter.proj_layer_norm(adapter.proj(hidden))
    for layer in adapter.layers:
        residual = convolve(layer.residual_conv, layer.residual_layer_norm(hidden))
        residual = nn.functional.glu(residual, dim=-1)
        states = convolve(layer.self_attn_conv, layer.self_attn_layer_norm(hidden))
        states = nn.functional.glu(states, dim=-1)
        hidden = residual + _attend(layer.self_attn, states, None)
        hidden = hidden + feed_forward(layer.ffn, layer.ffn_layer_norm(hidden))
    return hidden
