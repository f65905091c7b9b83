"""The decoder of ONNX Runtime: caches of fixed length, which its graph writes in place."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import WhisperConfig

from exporter.families.graph import GraphFunction
from exporter.families.whisper.engine.cache import GraphCache
from exporter.families.whisper.engine.engine import Attended
from exporter.runtime.whisper.engine import query_name, require_queries


class StepCache(GraphCache):
    """`tensors` are the tokens' caches [rows, heads, positions, head_dim], `shared` the audio's."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows for a beam search: copy the positions written so far."""
        for tensor in self.tensors.values():
            written = tensor[:, :, : self.length]
            written.copy_(written.index_select(0, beam_idx))


class StepDecoder:
    """Calls the graph `cross_cache` once per window, and `step` for every token.

    `encoded` is the encoder's output. onnxruntime's attention takes several queries only for one
    row: a prompt is decoded row by row, and with several windows, each hypothesis has a copy of its
    window's cache. The hypotheses of a single window are queries of one row.
    """

    takes_hidden_states = True

    def __init__(
        self, functions: Mapping[str, GraphFunction], config: WhisperConfig, device: torch.device
    ) -> None:
        self._functions = functions
        self._device = device
        heads = config.decoder_attention_heads
        self._shape = (heads, config.max_target_positions, config.d_model // heads)
        self._source, self._width = config.max_source_positions, config.d_model
        layers = range(config.decoder_layers)
        self._own = [f"own.{index}.{leaf}" for index in layers for leaf in ("key", "value")]

    def start(self) -> StepCache:
        return StepCache()

    def step(self, ids: Tensor, encoded: Tensor, cache: StepCache) -> Tensor:
        if cache.length == 0:
            self._begin(cache, encoded)
        if len(ids) == 1 or ids.shape[1] == 1:
            logits = self._logits(ids, {**cache.tensors, **cache.shared}, cache.length)
        else:
            logits = torch.cat([self._run_row(ids, cache, row) for row in range(len(ids))])
        cache.length += ids.shape[1]
        return logits

    def attend(self, ids: Tensor, encoded: Tensor, layers: Collection[int]) -> Attended:
        cache = self.start()
        self._begin(cache, encoded)
        found = self._run(ids, {**cache.tensors, **cache.shared}, 0)
        require_queries(layers, found)
        queries = {layer: found[query_name(layer)] for layer in layers}
        return Attended(found["logits"], queries, {n: _keys(cache.shared, n) for n in layers})

    def _begin(self, cache: StepCache, encoded: Tensor) -> None:
        """Allocate a row for each window, and compute the windows' own caches."""
        cache.tensors = self._allocate(len(encoded))
        cross = self._functions["cross_cache"]
        parts = [cross({"encoder_hidden_states": window}) for window in encoded.split(1)]
        if len(parts) > 1 and any(map(self._is_common, parts[0], parts[0].values())):
            parts = [cross({"encoder_hidden_states": encoded})]
        cache.shared = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def expand_beams(self, encoded: Tensor, cache: StepCache, beams: int) -> Tensor:
        """Allocate caches for all rows; copy only the positions that the prompt has written."""
        rows = torch.arange(len(encoded), device=self._device).repeat_interleave(beams)
        grown = self._allocate(len(rows))
        for name, tensor in cache.tensors.items():
            grown[name][:, :, : cache.length] = tensor[rows, :, : cache.length]
        cache.tensors = grown
        if len(encoded) > 1:
            shared = cache.shared.items()
            cache.shared = {n: t if self._is_common(n, t) else t[rows] for n, t in shared}
        return encoded

    def _allocate(self, rows: int) -> dict[str, Tensor]:
        """Allocate caches without initialization: unwritten positions are not read."""
        shape = (rows, *self._shape)
        return {name: torch.empty(shape, device=self._device) for name in self._own}

    def _run_row(self, ids: Tensor, cache: StepCache, row: int) -> Tensor:
        caches = {**cache.tensors, **cache.shared}
        one = {n: t if self._is_common(n, t) else t[row : row + 1] for n, t in caches.items()}
        return self._logits(ids[row : row + 1], one, cache.length)

    def _logits(self, ids: Tensor, caches: Mapping[str, Tensor], length: int) -> Tensor:
        return self._run(ids, caches, length, ("logits",))["logits"]

    def _run(
        self,
        ids: Tensor,
        caches: Mapping[str, Tensor],
        length: int,
        wanted: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        rows, windows = len(ids), len(caches["cross.0.key"])
        last = length + ids.shape[1] - 1
        inputs = {
            "input_ids": ids.contiguous(),
            "own_last": self._filled(rows, last),
            "cross_last": self._filled(windows, self._source - 1),
            **caches,
        }
        return self._functions["step"](inputs, wanted)

    def _is_common(self, name: str, tensor: Tensor) -> bool:
        """Return whether it is a scale of all windows, as in graphs of earlier releases."""
        return name.endswith("_scale") and tensor.shape[-1] != self._width

    def _filled(self, size: int, value: int) -> Tensor:
        return torch.full((size,), value, dtype=torch.int32, device=self._device)

    def release(self, cache: StepCache) -> None:
        """Do nothing: caches are not reused."""


def _keys(shared: Mapping[str, Tensor], layer: int) -> Tensor:
    """Return a layer's keys [heads, source, head_dim] of the first window."""
    name = f"cross.{layer}.key"
    return unscaled(shared[name], shared.get(f"{name}_scale"))[0]


def unscaled(cache: Tensor, scale: Tensor | None) -> Tensor:
    """Return the numbers in float32 that a cache of the audio holds.

    Args:
        cache: Keys or values [windows, heads, source, head_dim], or their codes.
        scale: The scales of the codes [windows, 1, width]; in graphs of earlier releases those of
            all windows together [heads, 1, head_dim].
    """
    if scale is None:
        return cache.float()
    heads, dim = cache.shape[1], cache.shape[3]
    return cache * scale.reshape(-1, heads, 1, dim)
