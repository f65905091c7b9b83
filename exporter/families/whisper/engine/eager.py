"""Run a torch model for the decoding in numpy, by calling its submodules one by one.

transformers' forward spends more time per token on arguments, masks and cache objects than on
small products. Here each layer runs only its dozen operators, on views of caches that are written
in place. The model itself is unchanged, for `generate` and pipelines.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.families.attention import (
    SCALE_BYTES,
    attend_packed,
    attended,
    packed,
    split,
)
from exporter.families.graph import GraphFunction
from exporter.families.whisper.engine.engine import Engine
from exporter.families.whisper.engine.static_decoder import StaticDecoder
from exporter.families.whisper.graphs.layers import embed, feed_forward, merge
from exporter.runtime.whisper.engine import query_name


def eager_engine(model: Any, *, compact: bool = False) -> Engine:
    """Return the engine of a transformers Whisper, on its device.

    Args:
        model: The model.
        compact: Keep the audio's keys and values as int8 codes, with a scale for each, as the
            graphs of aoti do: a quarter of the memory.
    """
    functions: dict[str, GraphFunction] = {
        "encoder": EagerEncoder(model, compact=compact),
        "decoder": EagerDecoder(model),
    }
    dtype = model.model.decoder.layer_norm.weight.dtype
    decoder = StaticDecoder(functions, model.config, dtype, model.device)
    return Engine(functions, "encoder", decoder, model.device)


class EagerEncoder:
    """input_features [windows, mels, frames] -> cross_cache [windows, 2 * layers, heads, source,
    head_dim], in float32; or `compact`, as `exporter.families.attention.packed`.

    It calls transformers' own encoder: the overhead is small next to its products, and sums are
    rounded in the same order as by `generate`.
    """

    def __init__(self, model: Any, *, compact: bool) -> None:
        self.device: torch.device = model.device
        self._compact = compact
        self._encoder = model.model.encoder
        self._attentions = [layer.encoder_attn for layer in model.model.decoder.layers]
        self._heads = model.config.decoder_attention_heads

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Sequence[str] | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        hidden = self._encoder(inputs["input_features"]).last_hidden_state
        projections = [p for a in self._attentions for p in (a.k_proj, a.v_proj)]
        windows, source, width = hidden.shape
        dim, dtype = width // self._heads, hidden.dtype
        if self._compact:
            dim, dtype = dim + SCALE_BYTES, torch.uint8
        shape = (windows, len(projections), self._heads, source, dim)
        # Filled one by one: of large-v3 it has half a gigabyte, of which there is no second one.
        cross = hidden.new_empty(shape, dtype=dtype)
        for index, projection in enumerate(projections):
            states = split(projection(hidden), self._heads)
            cross[:, index] = packed(states) if self._compact else states
        return {"cross_cache": cross}


class EagerDecoder:
    """Computes float32 logits [rows, tokens, vocabulary], and queries of the audio, from the static
    inputs.
    """

    def __init__(self, model: Any) -> None:
        self.device: torch.device = model.device
        self._decoder = model.model.decoder
        self._proj_out = model.proj_out
        self._heads = model.config.decoder_attention_heads
        self._positions = torch.arange(model.config.max_target_positions, device=model.device)

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Sequence[str] | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        ids, cross = inputs["input_ids"], inputs["cross_cache"]
        start = int(inputs["position"])
        stop = start + ids.shape[1]
        own = len(ids) == len(
            cross
        )  # with one hypothesis per window, every row is its own ancestor
        ancestors = None if own else inputs["ancestors"][:, :stop]
        mask = self._mask(start, stop)
        hidden = embed(self._decoder, ids, self._positions[start:stop])
        queries: dict[str, Tensor] = {}
        for index, layer in enumerate(self._decoder.layers):
            caches = [inputs[f"cache.{index}.{leaf}"] for leaf in ("key", "value")]
            states = layer.self_attn_layer_norm(hidden)
            query, *new = self._project(layer.self_attn, states)
            for cache, part in zip(caches, new, strict=True):
                cache[:, :, start:stop] = part
            key, value = (self._past(cache, stop, ancestors) for cache in caches)
            hidden = hidden + merge(layer.self_attn, attended(query, key, value, mask))
            attention = layer.encoder_attn
            query = attention.q_proj(layer.encoder_attn_layer_norm(hidden)) * attention.scaling
            queries[query_name(index)] = query
            key, value = cross[:, 2 * index], cross[:, 2 * index + 1]
            hidden = hidden + self._listen(attention, query, key, value)
            hidden = feed_forward(layer, hidden)
        logits = self._proj_out(self._decoder.layer_norm(hidden)).float()
        return {"logits": logits, **queries}

    def _mask(self, start: int, stop: int) -> Tensor | None:
        """Return a causal mask for several tokens; None for a single one, which sees all."""
        if stop - start == 1:
            return None
        return self._positions[start:stop, None] >= self._positions[:stop]

    def _project(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            split(attention.q_proj(states) * attention.scaling, self._heads),
            split(attention.k_proj(states), self._heads),
            split(attention.v_proj(states), self._heads),
        )

    def _past(self, cache: Tensor, stop: int, ancestors: Tensor | None) -> Tensor:
        """Return keys or values [rows, heads, stop, head_dim] of each row's ancestors."""
        if ancestors is None:
            return cache[:, :, :stop]
        heads = self._positions[: self._heads, None]
        return cache[ancestors[:, None], heads, self._positions[:stop]]

    def _listen(self, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the audio; all hypotheses of a window share its keys and values.

        Hypotheses as further queries of one call would be faster, but would be rounded differently
        from `generate`, and with int8 activations that sometimes changes a token.
        """
        if key.dtype == torch.uint8:
            heard: Tensor = attention.out_proj(attend_packed(query, key, value))
            return heard
        queries = split(query, self._heads).chunk(len(key))
        attended_windows = [
            attended(rows, k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1))
            for rows, k, v in zip(queries, key.split(1), value.split(1), strict=True)
        ]
        return merge(attention, torch.cat(attended_windows))
