"""Attention as operators of this package, so that a target can have a kernel for it.

The implementations here use torch's own operators. They run if a target has no kernel, and kernels
are tested against them. Queries are scaled already.
"""

import torch
from torch import Tensor, nn

CACHE_DTYPE = torch.float16  # half the bytes of float32, eight times the precision of bfloat16
SCALE_BYTES = 4


@torch.library.custom_op("exporter::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attend with queries [batch, length, width] to all keys and values.

    Keys and values have the queries' layout, or are a cache [batch, heads, source, head_dim].
    """
    return attend(query, key, value, heads)


@attention.register_fake
def _(query: Tensor, _key: Tensor, _value: Tensor, _heads: int) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("exporter::step_attention", mutates_args={"key_cache", "value_cache"})
def step_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    ancestors: Tensor,
    position: Tensor,
) -> Tensor:
    """Write new keys and values into their caches, and attend causally to all of them.

    `query`, `key` and `value` are float32 [rows, tokens, width], of tokens that begin at
    `position` [1]; the caches are [rows, heads, positions, head_dim]. `ancestors` int32 [rows,
    positions] is, for each earlier position, the row whose cache holds it, so that a beam search
    copies no caches.
    """
    start, tokens = int(position), query.shape[1]
    rows, heads, _, _ = key_cache.shape
    end = start + tokens
    places = torch.arange(end)
    own = torch.arange(rows)[:, None].expand(-1, tokens)
    owners = torch.cat([ancestors[:, :start], own], 1)

    def extended(cache: Tensor, new: Tensor) -> Tensor:
        cache[:, :, start:end] = narrowed(split(new, heads), cache.dtype)
        if rows == 1:
            return cache[:, :, :end].float()
        return cache.transpose(1, 2)[owners, places].transpose(1, 2).float()

    mask = None if tokens == 1 else places[None] <= places[start:, None]
    keys, values = extended(key_cache, key), extended(value_cache, value)
    return joined(attended(split(query, heads), keys, values, mask))


@step_attention.register_fake
def _(
    query: Tensor,
    _key: Tensor,
    _value: Tensor,
    _key_cache: Tensor,
    _value_cache: Tensor,
    _ancestors: Tensor,
    _position: Tensor,
) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("exporter::keep_window", mutates_args={"cross"})
def keep_window(states: Tensor, cross: Tensor, index: int) -> None:
    """Write a window's keys or values, float32 [windows, source, width], to `cross[:, index]`.

    `cross` is uint8 [windows, 2 * layers, heads, source, head_dim + 4]: the result of `packed`.
    """
    cross[:, index] = packed(split(states, cross.shape[2]))


@keep_window.register_fake
def _(_states: Tensor, _cross: Tensor, _index: int) -> None:
    return None


@torch.library.custom_op("exporter::window_attention", mutates_args=())
def window_attention(query: Tensor, cross: Tensor, layer: int) -> Tensor:
    """Attend to a window's keys and values, which all its rows share.

    `query` is float32 [rows, tokens, width]; `cross` is as in `keep_window`, keys of a layer before
    its values. Rows of one window are consecutive.
    """
    return attend_packed(query, cross[:, 2 * layer], cross[:, 2 * layer + 1])


@window_attention.register_fake
def _(query: Tensor, _cross: Tensor, _layer: int) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("exporter::cached_attention", mutates_args={"key_cache", "value_cache"})
def cached_attention(
    states: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    ancestors: Tensor,
    slots: Tensor,
    position: Tensor,
    scale: float,
) -> Tensor:
    """Write new keys and values into their caches, and attend causally to all of them.

    Nothing is read on the host, so that a CUDA graph can hold it: each row has its own place in
    the caches, and its own position. Scores and their softmax are float32.

    Args:
        states: Queries, keys and values side by side [rows, tokens, 3 * width], in the type of
            the caches.
        key_cache: The keys [slots, heads, positions, head_dim]; written.
        value_cache: The values, like the keys; written.
        ancestors: For each slot and position, the slot whose cache holds it, int32 [slots,
            positions], so that a beam search copies no caches; its own for those to come.
        slots: The slot of each row, int32 [rows]; no two rows have the same.
        position: The position of the first token of each row, int32 [rows].
        scale: By which queries are multiplied.

    Returns:
        What the queries attend to [rows, tokens, width].
    """
    tokens = states.shape[1]
    heads, positions = key_cache.shape[1:3]
    query, key, value = (split(part, heads) for part in states.chunk(3, -1))
    own = slots.long()
    steps = torch.arange(tokens, device=states.device)
    places = position.long()[:, None] + steps
    everywhere = torch.arange(positions, device=states.device)
    owners = ancestors[own].long()
    mask = (everywhere <= places[..., None])[:, None]

    def extended(cache: Tensor, new: Tensor) -> Tensor:
        by_place = cache.transpose(1, 2)
        by_place[own[:, None], places] = new.transpose(1, 2)
        return by_place[owners, everywhere].transpose(1, 2).float()

    keys, values = extended(key_cache, key), extended(value_cache, value)
    return joined(attended(query.float() * scale, keys, values, mask)).to(states.dtype)


@cached_attention.register_fake
def _(
    states: Tensor,
    _key_cache: Tensor,
    _value_cache: Tensor,
    _ancestors: Tensor,
    _slots: Tensor,
    _position: Tensor,
    _scale: float,
) -> Tensor:
    return states.new_empty((*states.shape[:2], states.shape[2] // 3))


@torch.library.custom_op("exporter::audio_attention", mutates_args=())
def audio_attention(
    query: Tensor, key: Tensor, value: Tensor, scales: list[Tensor], window: Tensor, scale: float
) -> Tensor:
    """Attend to the audio of each row's window; scores and their softmax are float32.

    Args:
        query: Queries [rows, tokens, width].
        key: The windows' keys [windows, heads, source, head_dim], in the queries' type, or int8.
        value: Their values, like the keys.
        scales: None; or of int8 keys and of values, the scale of each position and head, float32
            [windows, heads, source].
        window: The window of each row, int32 [rows].
        scale: By which queries are multiplied.

    Returns:
        What the queries attend to [rows, tokens, width].
    """
    heard = window.long()
    queries = split(query, key.shape[1]).float() * scale
    keys, values = key[heard].float(), value[heard].float()
    if not scales:
        return joined(attended(queries, keys, values)).to(query.dtype)
    key_scale, value_scale = (each[heard][:, :, None] for each in scales)
    weights = ((queries @ keys.mT) * key_scale).softmax(-1) * value_scale
    return joined(weights @ values).to(query.dtype)


@audio_attention.register_fake
def _(
    query: Tensor,
    _key: Tensor,
    _value: Tensor,
    _scales: list[Tensor],
    _window: Tensor,
    _scale: float,
) -> Tensor:
    return torch.empty_like(query)


def quantized_places(states: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize [..., n] to int8 codes, and a float32 scale for each place [...]."""
    scale = (states.float().abs().amax(-1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (states.float() / scale[..., None]).round().to(torch.int8), scale


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Compute `attention` with torch's own operators, which a tracer records."""
    if key.dim() == 3:
        key, value = split(key, heads), split(value, heads)
    return joined(attended(split(query, heads), key, value))


def split(states: Tensor, heads: int) -> Tensor:
    """Split heads: [batch, length, width] -> [batch, heads, length, head_dim]."""
    parted: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return parted


def joined(states: Tensor) -> Tensor:
    """Join heads: [batch, heads, length, head_dim] -> [batch, length, width]."""
    return states.transpose(1, 2).flatten(2)


def narrowed(states: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to a cache's type, with values clamped to its range instead of infinite."""
    largest = torch.finfo(dtype).max
    return states.clamp(-largest, largest).to(dtype)


def packed(states: Tensor) -> Tensor:
    """Quantize float32 [..., n] to int8 codes and a scale: uint8 [..., n + SCALE_BYTES]."""
    scale = (states.abs().amax(-1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    codes = (states / scale).round().to(torch.int8).view(torch.uint8)
    bits = scale.view(torch.int32)
    scale_bytes = [((bits >> shift) & 0xFF).to(torch.uint8) for shift in (0, 8, 16, 24)]
    return torch.cat([codes, *scale_bytes], -1)


def unpacked(rows: Tensor) -> Tensor:
    """Invert `packed`, up to rounding."""
    codes, scale = _codes(rows)
    return codes * scale


def kept(states: Tensor, heads: int) -> Tensor:
    """Return what a cache of `packed` rows keeps of keys or values [..., heads * head_dim]."""
    return unpacked(packed(states.unflatten(-1, (heads, -1)))).flatten(-2)


def attend_packed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend to the `packed` keys and values [windows, heads, source, ...] of windows.

    `query` is [rows, tokens, width]; rows of one window, which are consecutive, share its keys and
    values. Their scales multiply scores and probabilities, of which there are fewer.
    """
    windows, heads = key.shape[:2]
    queries = split(query.reshape(windows, -1, query.shape[-1]), heads)
    (keys, key_scale), (values, value_scale) = _codes(key), _codes(value)
    scores = (queries @ keys.mT) * key_scale.mT
    return joined((scores.softmax(-1) * value_scale.mT) @ values).reshape(query.shape)


def _codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes of `packed` rows [..., n] as float32, and their scales [..., 1]."""
    scale = rows[..., -SCALE_BYTES:].contiguous().view(torch.float32)
    return rows[..., :-SCALE_BYTES].view(torch.int8).float(), scale


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with torch's operator on [batch, heads, length, head_dim]; queries are scaled."""
    return nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0)


@torch.library.custom_op("exporter::cross_attention", mutates_args=())
def cross_attention(
    query: Tensor, past_key: Tensor, past_value: Tensor, key: Tensor, value: Tensor, cached: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the past keys and values if `cached` [1], else to the new ones.

    Queries are [batch, length, width], keys and values [batch, heads, length, head_dim]. Returns
    the attention's output and the keys and values to keep: the new ones, or empty ones if the past
    is used, so that a cache of 100 MB is not copied for every token. The past may have fewer rows
    than the queries: row r then belongs to past r // (rows / pasts), as hypotheses to a window.
    This is one operator, so that the ONNX target can put the new projections inside an `If`
    (`torch.cond` refuses branches of different shapes).
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


@torch.library.custom_op("exporter::quantized_channels", mutates_args=())
def quantized_channels(states: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize [batch, length, width] to int8 codes, with a scale per channel [batch, 1, width]."""
    peak = states.square().amax(1, keepdim=True).sqrt()
    scale = (peak / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (states / scale).round().to(torch.int8), scale


@quantized_channels.register_fake
def _(states: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(states, dtype=torch.int8), states.new_empty(
        (states.shape[0], 1, states.shape[2])
    )


@torch.library.custom_op("exporter::shared_attention", mutates_args=())
def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend causally, and return the caches with the new keys and values.

    Keys and values are [rows, tokens, width]; the caches [rows, heads, positions, head_dim].
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
    last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to all keys and values [windows, heads, source, head_dim], and return them too.

    They are float32, or int8 with `scales` [windows, 1, width] for the channels of keys and of
    values. Queries are [rows, tokens, width]; all rows of one window may share its keys and values.
    """
    heads, queries = key.shape[1], query.reshape(len(key), -1, query.shape[-1])
    if not scales:
        rows = joined(attended(split(queries, heads), key, value))
    else:
        queries = split(queries * scales[0], heads)
        rows = joined(attended(queries, key.float(), value.float())) * scales[1]
    return rows.reshape(query.shape), key.clone(), value.clone()


@shared_cross_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, _scales: list[Tensor], _: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@torch.library.custom_op("exporter::windows_attention", mutates_args=())
def windows_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with queries [rows, tokens, width] to all keys and values of the rows' windows.

    Keys and values are [windows, heads, source, head_dim]. Consecutive rows share a window.
    """
    queries = query.reshape(len(key), -1, query.shape[-1])
    return attend(queries, key, value, key.shape[1]).reshape(query.shape)


@windows_attention.register_fake
def _(query: Tensor, _key: Tensor, _value: Tensor) -> Tensor:
    return torch.empty_like(query)
