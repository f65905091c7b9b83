"""The decoder of graphs whose steps advance their own state: see `graphs.device`.

What needs logits on the host decodes step by step here, as with any other decoder. Greedy texts do
not: see `device_stream`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperConfig

from exporter.families.graph import GraphFunction
from exporter.families.whisper.engine.cache import GraphCache
from exporter.families.whisper.engine.device_memory import FOREVER, Memory, Numbers, Rows
from exporter.families.whisper.engine.engine import Attended
from exporter.runtime.whisper.engine import query_name, require_queries
from exporter.runtime.whisper.rules import Rules

ENCODED = 16
"""The windows that are encoded at a time."""

_SCALE = "_scale"
_KEPT = 2  # memories of which one decodes a queue, and another what fails in it


class DeviceCache(GraphCache):
    """Rows that the host decodes: row r has slot r, and belongs to window r // beams."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Memory | None = None
        self.rows: Rows | None = None
        self.dropped: finalize[[Memory], DeviceCache] | None = None
        self.count = self.windows = 0

    def contents(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the caches of the rows, and keys and values of their windows, by name."""
        assert self.memory is not None
        tensors = self.memory.tensors
        caches = {n: t[: self.count] for n, t in tensors.items() if n.startswith("cache.")}
        names = [n for n in self.memory.audio if not n.endswith(_SCALE)]
        return caches, {name: heard(tensors, name)[: self.windows] for name in names}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows for a beam search, by a permutation of the ancestors only."""
        assert self.memory is not None
        self.memory.permute(beam_idx, self.length)


@dataclass(frozen=True)
class _Sizes:
    """The numbers of rows for which there are steps."""

    counts: tuple[int, ...]

    def fitting(self, rows: int) -> int | None:
        """Return the least number that is enough; None if none is."""
        return next((count for count in self.counts if count >= rows), None)


class DeviceDecoder:
    """Calls `cross` once a window, `prompt` for several tokens, and `step_N` for one.

    `encoded` is the encoder's output. More rows than the largest step takes are decoded by the
    graph of prompts, which takes any.
    """

    takes_hidden_states = True

    def __init__(
        self,
        functions: Mapping[str, GraphFunction],
        config: WhisperConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        narrow: bool,
    ) -> None:
        counts = sorted(int(n.removeprefix("step_")) for n in functions if n.startswith("step_"))
        self._sizes = _Sizes(tuple(counts))
        self.functions = functions
        self._config, self._dtype, self._device = config, dtype, device
        self._narrow = narrow
        self._free: list[Memory] = []

    @property
    def most(self) -> int:
        """The rows of the largest step."""
        return self._sizes.counts[-1]

    def fitting(self, rows: int) -> int:
        """Return the rows of the least step that takes so many, or those of the largest."""
        return self._sizes.fitting(rows) or self.most

    def start(self) -> DeviceCache:
        return DeviceCache()

    def acquire(self, slots: int, windows: int) -> Memory:
        """Return a memory with so many slots and windows, to be given back to `give_back`."""
        if self._free:
            memory = self._free.pop()
        else:
            memory = Memory(
                self.functions, self._config, self._dtype, self._device, narrow=self._narrow
            )
        memory.reserve(slots, windows)
        memory.own_ancestors()
        return memory

    def give_back(self, memory: Memory) -> None:
        """Keep a memory for the next that needs one."""
        self._free.append(memory)
        del self._free[:-_KEPT]

    def hear(self, memory: Memory, encoded: Tensor, places: Tensor) -> None:
        """Write the keys and values of windows to their places int32 [windows] in a memory."""
        inputs = {"hidden": encoded.contiguous(), "places": places, **memory.audio}
        self.functions["cross"](inputs)

    def prompt(
        self,
        memory: Memory,
        ids: Tensor,
        position: Tensor,
        slots: Tensor,
        window: Tensor,
        places: Tensor,
    ) -> dict[str, Tensor]:
        """Decode tokens [rows, tokens] of any rows; see `graphs.device.device_graphs`."""
        integers = {
            "input_ids": ids,
            "position": position,
            "slots": slots,
            "window": window,
            "places": places,
        }
        rows = {name: given.int().contiguous() for name, given in integers.items()}
        return self.functions["prompt"]({**rows, **memory.caches})

    def begin(
        self, ids: Tensor, encoded: Tensor, cache: DeviceCache, places: Sequence[int]
    ) -> Tensor:
        """Decode prompts [rows, tokens]; return the logits after the tokens at some places."""
        self._begin(encoded, cache)
        wanted = [range(ids.shape[1])[place] for place in places]
        logits = self._several(ids, cache, wanted)["logits"]
        cache.length += ids.shape[1]
        return logits

    def step(self, ids: Tensor, encoded: Tensor, cache: DeviceCache) -> Tensor:
        if cache.memory is None:
            self._begin(encoded, cache)
        tokens = ids.shape[1]
        if tokens == 1 and cache.count <= self.most:
            logits = self._single(ids, cache)["logits"][: cache.count, None]
        else:
            logits = self._several(ids, cache)["logits"]
        cache.length += tokens
        return logits

    def set_rules(self, cache: DeviceCache, rules: Rules) -> None:
        """Set the rules by which `rank` chooses, after the prompt."""
        assert cache.memory is not None
        cache.memory.set_rules(rules)

    def rank(self, cache: DeviceCache, asked: Numbers) -> list[NDArray[Any]]:
        """Decode a token of each row, and return the results of `best_N`; advance `cache`.

        Args:
            cache: The rows, not more than the largest step takes.
            asked: What the rules look at, `RULED` of each row, int32 [names, rows].
        """
        assert cache.memory is not None
        uploaded = cache.memory.transfer.upload(asked)
        logits = self._single(uploaded[:1].T, cache)["logits"]
        assert cache.rows is not None
        cache.length += 1
        found = cache.rows.best(logits, uploaded)
        return cache.memory.transfer.download(*found.values())()

    def attend(self, ids: Tensor, encoded: Tensor, layers: Collection[int]) -> Attended:
        cache = self.start()
        memory = self._begin(encoded, cache)
        found = self._several(ids, cache)
        require_queries(layers, found)
        keys = {layer: heard(memory.tensors, f"cross.{layer}.key")[0] for layer in layers}
        self.release(cache)
        queries = {layer: found[query_name(layer)].float() for layer in layers}
        return Attended(found["logits"], queries, keys)

    def expand_beams(self, encoded: Tensor, cache: DeviceCache, beams: int) -> Tensor:
        """Let all rows of a window continue the one that has its prompt: nothing is copied."""
        assert cache.memory is not None
        count = cache.count * beams
        cache.memory.reserve(self._slots(count), cache.windows)
        first = self._range(cache.count).repeat_interleave(beams)
        cache.memory.permute(first, cache.length)
        cache.count, cache.rows = count, None
        return encoded

    def release(self, cache: DeviceCache) -> None:
        if cache.dropped is not None:
            cache.dropped()
        cache.memory = cache.rows = cache.dropped = None

    def _begin(self, encoded: Tensor, cache: DeviceCache) -> Memory:
        """Give the windows slots, and compute their keys and values."""
        cache.count = cache.windows = len(encoded)
        cache.memory = self.acquire(self._slots(len(encoded)), len(encoded))
        # `generate` releases nothing: its memory is free when nobody has the cache any more.
        cache.dropped = finalize(cache, self.give_back, cache.memory)
        for some in self._range(len(encoded)).split(ENCODED):
            self.hear(cache.memory, encoded[int(some[0]) : int(some[-1]) + 1], some)
        return cache.memory

    def _single(self, ids: Tensor, cache: DeviceCache) -> dict[str, Tensor]:
        """Decode one token of each row, by the least step that takes them."""
        if cache.rows is None:
            cache.rows = self._rows(cache)
        state = cache.rows.state
        state["token"][: cache.count].copy_(ids[:, 0])
        state["position"][: cache.count].fill_(cache.length)
        return cache.rows.step()

    def _rows(self, cache: DeviceCache) -> Rows:
        """Return rows that go on until the host has enough of them; those left over are idle."""
        memory, count = cache.memory, cache.count
        assert memory is not None
        rows = memory.rows(self.fitting(count))
        rows.idle(range(count, rows.count), range(count, rows.count))
        beams = count // cache.windows
        rows.set(
            range(count),
            slots=range(count),
            window=[row // beams for row in range(count)],
            limit=[FOREVER] * count,
            latest=[-1] * count,
        )
        return rows

    def _several(
        self, ids: Tensor, cache: DeviceCache, wanted: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Decode tokens [rows, tokens] of all rows at once; `wanted` ones have logits, or all."""
        assert cache.memory is not None
        rows = self._range(cache.count)
        window = rows // (cache.count // cache.windows)
        position = torch.full_like(rows, cache.length)
        if wanted is None:
            wanted = range(ids.shape[1])
        places = cache.memory.transfer.upload(np.array([wanted] * len(rows), np.int32))
        return self.prompt(cache.memory, ids, position, rows, window, places)

    def _slots(self, rows: int) -> int:
        return self._sizes.fitting(rows) or rows

    def _range(self, count: int) -> Tensor:
        return torch.arange(count, dtype=torch.int32, device=self._device)


def heard(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return keys or values of the audio in float32."""
    scale = tensors.get(f"{name}{_SCALE}")
    return tensors[name].float() if scale is None else tensors[name] * scale[..., None]
