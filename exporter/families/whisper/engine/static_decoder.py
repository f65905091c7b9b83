"""The decoder with caches of fixed length, written in place and never copied.

A beam search permutes a small table instead: for each row and position, the row whose cache holds
the key and value that were computed there.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import WhisperConfig

from exporter.families.graph import GraphFunction
from exporter.families.whisper.engine.cache import GraphCache


class StaticCache(GraphCache):
    """`tensors` are the graph's inputs, all but the tokens: caches, and `ancestors`
    [rows, max_target_positions] int32, where what is to come counts as a row's own.
    """

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow a beam search's choice: a permutation of the table alone."""
        ancestors = self.tensors["ancestors"].index_select(0, beam_idx)
        own = torch.arange(len(ancestors), dtype=torch.int32, device=ancestors.device)
        ancestors[:, self.length :] = own[:, None]
        self.tensors["ancestors"] = ancestors


class StaticDecoder:
    """Calls the graph `decoder`; several tokens go in at once, as many as a prompt has.

    `encoded` is its cross-attention cache [windows, 2 * layers, heads, source, head_dim].
    """

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
        if not cache.tensors:
            self._allocate(cache, len(ids))
        inputs = {
            "input_ids": ids.contiguous(),
            "position": self._positions[cache.length : cache.length + 1],
            "cross_cache": encoded,
            **cache.tensors,
        }
        logits = self._functions["decoder"](inputs)["logits"]
        cache.length += ids.shape[1]
        return logits[:, None]

    def expand_beams(self, encoded: Tensor, cache: StaticCache, beams: int) -> Tensor:
        """Take caches for all rows; of those before, only what the prompt has written is copied."""
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
        del self._idle[:-2]  # those of a prompt, and those of its hypotheses

    def _allocate(self, cache: StaticCache, rows: int) -> None:
        """Take caches of so many rows: idle ones, whatever is in them, or zeros.

        Values beyond a row's length are masked, so they matter only if they are not numbers.
        """
        fitting = [i for i, idle in enumerate(self._idle) if len(idle[self._names[0]]) == rows]
        caches = self._idle.pop(fitting[0]) if fitting else self._zeros(rows)
        own = self._rows(rows)[:, None]
        cache.tensors = {**caches, "ancestors": own.repeat(1, self._length)}

    def _rows(self, count: int) -> Tensor:
        return torch.arange(count, dtype=torch.int32, device=self._device)

    def _zeros(self, rows: int) -> dict[str, Tensor]:
        shape = (rows, *self._shape)
        return {
            name: torch.zeros(shape, dtype=self._dtype, device=self._device) for name in self._names
        }
