"""Layers, embeddings, masks and shapes that Whisper's graphs share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.graph import mark


def shapes(
    model: Any,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return example shapes of the features, the encoder's output and a self-attention cache."""
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
    """Return an example input on the `meta` device."""
    return torch.empty(shape, dtype=dtype, device="meta")


def encode(
    encoder: Any,
    features: Tensor,
    attend: Callable[[Any, Tensor], Tensor],
    num_layers: int | None = None,
) -> Tensor:
    """Encode features [batch, mels, frames] to [batch, source, width], as in transformers.

    Args:
        encoder: The encoder of a transformers Whisper.
        features: Log-mel features.
        attend: Computes a layer's self-attention of [batch, source, width].
        num_layers: Number of layers to run, with marked boundaries; None: all, unmarked.
    """
    hidden = convolve(encoder, features, encoder.layer_norm.weight.dtype)
    for layer in encoder.layers[:num_layers]:
        hidden = encode_layer(layer, mark(hidden, num_layers), attend)
    normed: Tensor = encoder.layer_norm(mark(hidden, num_layers))
    return normed


def convolve(encoder: Any, features: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the first layer of an encoder takes, [batch, source, width]."""
    hidden = features.to(dtype)
    for conv in (encoder.conv1, encoder.conv2):
        hidden = _convolved(conv, hidden, dtype)
    placed: Tensor = hidden.transpose(1, 2) + encoder.embed_positions.weight.to(dtype)
    return placed


def encode_layer(layer: Any, hidden: Tensor, attend: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """Apply a layer of an encoder to [batch, source, width]; `attend` is its self-attention."""
    states = layer.self_attn_layer_norm(hidden)
    return _clamped(feed_forward(layer, hidden + attend(layer.self_attn, states)))


def _convolved(conv: Any, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Apply a convolution and GELU to [batch, channels, frames]; a target may have replaced it."""
    if not isinstance(conv, nn.Conv1d):
        return nn.functional.gelu(conv.frames(hidden.transpose(1, 2))).transpose(1, 2)
    assert conv.bias is not None
    kernel, bias = conv.weight.to(dtype), conv.bias.to(dtype)
    convolved = nn.functional.conv1d(hidden, kernel, bias, conv.stride, conv.padding)
    return nn.functional.gelu(convolved)


def _clamped(hidden: Tensor) -> Tensor:
    """Keep float16 states finite, as `WhisperEncoderLayer` of transformers does."""
    if hidden.dtype != torch.float16:
        return hidden
    largest = torch.finfo(torch.float16).max - 1000
    return hidden.clamp(-largest, largest)


def embed(decoder: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Return the sum of token and position embeddings, [batch, tokens, width]."""
    places = nn.functional.embedding(positions, decoder.embed_positions.weight)
    dtype = decoder.layer_norm.weight.dtype
    embedded: Tensor = decoder.embed_tokens(ids).to(dtype) + places.to(dtype)
    return embedded


def merge(attention: Any, attended: Tensor) -> Tensor:
    """Join heads [batch, heads, length, head_dim] and apply the output projection."""
    merged: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return merged


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention in separate steps, which old ONNX runtimes also support.

    A float32 mask makes the softmax one in float32.
    """
    scores = query @ key.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights.to(value.dtype) @ value


def feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    """Apply a layer's feed-forward block to [batch, length, width], with its residual."""
    states = layer.fc1(layer.final_layer_norm(hidden))
    output: Tensor = hidden + layer.fc2(layer.activation_fn(states))
    return output


def logits(decoder: Any, head: Any, hidden: Tensor) -> Tensor:
    """Return float32 logits of the last layer's states: 16 bits would make ties of near ones."""
    scores: Tensor = head(decoder.layer_norm(hidden).float())
    return scores
