"""The decoder with caches of fixed length, written in place and never copied.

A beam search permutes a small table instead: for each row and position, it has the row whose cache
holds that position's key and value.
"""

import math
from collections.abc import Collection, Mapping
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import torch
from torch import Tensor
from transformers import WhisperConfig

from exporter.families.attention import unpacked
from exporter.families.graph import GraphFunction
from exporter.families.whisper.engine.cache import GraphCache
from exporter.families.whisper.engine.engine import Attended
from exporter.runtime.whisper.engine import query_name, require_queries


class StaticCache(GraphCache):
    """`tensors` are the graph's inputs except the tokens: caches, and `ancestors`
    [rows, max_target_positions] int32, in which future positions refer to the row itself.
    """

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows for a beam search, by a permutation of the table only."""
        ancestors = self.tensors["ancestors"].index_select(0, beam_idx)
        own = torch.arange(len(ancestors), dtype=torch.int32, device=ancestors.device)
        ancestors[:, self.length :] = own[:, None]
        self.tensors["ancestors"] = ancestors


class StaticDecoder:
    """Calls the graph `decoder`, which takes all tokens of a prompt at once.

    `encoded` is its cross-attention cache [windows, 2 * layers, heads, source, head_dim].
    """

    takes_hidden_states = False

    def __init__(
        self,
        functions: Mapping[str, GraphFunction],
        config: WhisperConfig,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._functions = functions
        self._dtype = dtype
        self._device = device
        heads, self._length = config.decoder_attention_heads, config.max_target_positions
        self._shape = (heads, self._length, config.d_model // heads)
        self._names = [
            f"cache.{i}.{leaf}" for i in range(config.decoder_layers) for leaf in ("key", "value")
        ]
        self._positions = torch.arange(self._length, device=device)
        self._idle: list[dict[str, Tensor]] = []

    def start(self) -> StaticCache:
        return StaticCache()

    def step(self, ids: Tensor, encoded: Tensor, cache: StaticCache) -> Tensor:
        logits = self._run(ids, encoded, cache)["logits"]
        return logits if logits.dim() == 3 else logits[:, None]  # as earlier releases give them

    def attend(self, ids: Tensor, encoded: Tensor, layers: Collection[int]) -> Attended:
        cache = self.start()
        found = self._run(ids, encoded, cache)
        self.release(cache)
        require_queries(layers, found)
        queries = {layer: found[query_name(layer)] for layer in layers}
        keys = {layer: encoded[0, 2 * layer] for layer in layers}
        if encoded.dtype == torch.uint8:
            keys = {layer: unpacked(each) for layer, each in keys.items()}
        return Attended(found["logits"], queries, keys)

    def _run(self, ids: Tensor, encoded: Tensor, cache: StaticCache) -> dict[str, Tensor]:
        if not cache.tensors:
            self._allocate(cache, len(ids))
        inputs = {
            "input_ids": ids.contiguous(),
            "position": self._positions[cache.length : cache.length + 1],
            "cross_cache": encoded,
            **cache.tensors,
        }
        outputs = self._functions["decoder"](inputs)
        cache.length += ids.shape[1]
        return outputs

    def expand_beams(self, encoded: Tensor, cache: StaticCache, beams: int) -> Tensor:
        """Allocate caches for all rows; copy only the positions that the prompt has written."""
        before = cache.tensors
        windows = len(before["ancestors"])
        self._allocate(cache, windows * beams)
        for name in self._names:
            cache.tensors[name][:windows, :, : cache.length] = before[name][:, :, : cache.length]
        first = self._rows(windows).repeat_interleave(beams)
        cache.tensors["ancestors"][:, : cache.length] = first[:, None]
        self._idle.append({name: before[name] for name in self._names})
        return encoded

    def release(self, cache: StaticCache) -> None:
        if cache.tensors:
            self._idle.append({name: cache.tensors[name] for name in self._names})
            cache.tensors = {}
        del self._idle[:-2]  # caches of a prompt, and of its hypotheses

    def _allocate(self, cache: StaticCache, rows: int) -> None:
        """Set caches of `rows` rows: released ones, with their old contents, or zeros.

        Values beyond a row's length are masked, so they only have to be finite.
        """
        fitting = [i for i, idle in enumerate(self._idle) if len(idle[self._names[0]]) == rows]
        caches = self._idle.pop(fitting[0]) if fitting else self._zeros(rows)
        own = self._rows(rows)[:, None]
        cache.tensors = {**caches, "ancestors": own.repeat(1, self._length)}

    def _rows(self, count: int) -> Tensor:
        return torch.arange(count, dtype=torch.int32, device=self._device)

    def _zeros(self, rows: int) -> dict[str, Tensor]:
        shape = (len(self._names), rows, *self._shape)
        # Pages from the system are zeros, and take memory once they are written: torch would write
        # them all, and numpy asks for huge ones.
        size = math.prod(shape) * self._dtype.itemsize
        pages = mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        caches = torch.frombuffer(pages, dtype=self._dtype).reshape(shape).to(self._device)
        return dict(zip(self._names, caches, strict=True))
