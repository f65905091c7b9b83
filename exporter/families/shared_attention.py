"""Attention to caches that the graph writes in place, as onnxruntime's operator takes them.

What stands here is the meaning of its nodes, in torch's own operators. `last` is the place of the
last key that a row of the cache has. Queries are scaled already.
"""

import torch
from torch import Tensor

from exporter.families.attention import attended, joined, split


@torch.library.custom_op("exporter::quantized_channels", mutates_args=())
def quantized_channels(states: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 codes of [batch, length, width], and the scale of each channel [width]."""
    peak = states.square().amax((0, 1)).sqrt()
    scale = (peak / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (states / scale).round().to(torch.int8), scale


@quantized_channels.register_fake
def _(states: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(states, dtype=torch.int8), states.new_empty(states.shape[-1])


@torch.library.custom_op("exporter::shared_attention", mutates_args=())
def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend up to each token's own place, and give the caches with the new keys and values.

    Those are [rows, tokens, width]; the caches [rows, heads, positions, head_dim].
    """
    end, tokens, heads = int(last[0]) + 1, query.shape[1], key_cache.shape[1]
    places = torch.arange(end)
    caches = key_cache.clone(), value_cache.clone()
    for cache, new in zip(caches, (key, value), strict=True):
        cache[:, :, end - tokens : end] = split(new, heads)
    mask = places[None] <= places[end - tokens :, None]
    keys, values = (cache[:, :, :end] for cache in caches)
    return joined(attended(split(query, heads), keys, values, mask)), *caches


@shared_attention.register_fake
def _(
    query: Tensor, _key: Tensor, _value: Tensor, key_cache: Tensor, value_cache: Tensor, _: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key_cache), torch.empty_like(value_cache)


@torch.library.custom_op("exporter::shared_cross_attention", mutates_args=())
def shared_cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scales: list[Tensor],
    last: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to all keys and values [windows, heads, source, head_dim]; give the same back.

    They are float32, or int8 with `scales` for the keys' channels and for the values'. Queries are
    [rows, tokens, width]; all rows of one window may share its keys and values.
    """
    queries = split(query.reshape(len(key), -1, query.shape[-1]), key.shape[1])
    caches = [key, value]
    if scales:
        caches = [codes * scale for codes, scale in zip(caches, scales, strict=True)]
    heard = joined(attended(queries, *caches))
    return heard.reshape(query.shape), key.clone(), value.clone()


@shared_cross_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, _scales: list[Tensor], _: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
