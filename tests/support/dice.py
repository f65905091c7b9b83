"""A Whisper whose logits are drawn: searches are told apart by them, and cost little."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.families.whisper import family as whisper
from exporter.families.whisper.engine.cache import GraphCache
from exporter.families.whisper.engine.engine import Engine
from exporter.families.whisper.engine.model import GraphWhisper


@lru_cache(maxsize=20_000)
def _drawn(size: int, *seed: int) -> NDArray[np.float64]:
    """The same for both sides of a comparison, which is most of its time."""
    return np.random.default_rng(seed).normal(0, 2, size)


class Dice:
    """A decoder whose logits are drawn anew for each window and each row of tokens before.

    What is cached is the tokens themselves, so whoever reorders rows wrongly gets other logits.
    """

    takes_hidden_states = True

    def __init__(self, size: int, end: int, times: int, eagerness: float, punctual: float) -> None:
        self._size = size
        self._end = end
        self._times = times
        self._eagerness = eagerness
        self._punctual = punctual

    def start(self) -> GraphCache:
        return GraphCache()

    def step(self, ids: Tensor, encoded: Tensor, cache: GraphCache) -> Tensor:
        before = cache.tensors.get("tokens", ids[:, :0])
        tokens = cache.tensors["tokens"] = torch.cat([before, ids], 1)
        cache.length += ids.shape[1]
        beams = len(ids) // len(encoded)
        windows = encoded.flatten().repeat_interleave(beams).abs().mul(1000).int().tolist()
        drawn = [
            [self._draw(window, row[: place + 1]) for place in range(before.shape[1], len(row))]
            for window, row in zip(windows, tokens.tolist(), strict=True)
        ]
        return torch.stack([torch.stack(row) for row in drawn])

    def expand_beams(self, encoded: Tensor, cache: GraphCache, beams: int) -> Tensor:
        cache.reorder_cache(torch.arange(len(encoded)).repeat_interleave(beams))
        return encoded

    def release(self, cache: GraphCache) -> None:
        pass

    def _draw(self, window: int, tokens: list[int]) -> Tensor:
        logits = _drawn(self._size, window, *tokens).copy()
        logits[self._end] += self._eagerness
        logits[self._times :] += self._punctual
        return torch.from_numpy(logits.astype(np.float32))


def encoder(inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
    """A window's number: the mean of its features."""
    return {"window": inputs["input_features"].mean((1, 2))[:, None]}


def dice(folder: Path, eagerness: float = 5.0, punctual: float = -50.0) -> Any:
    """A model that draws; the more punctual, the more timestamps."""
    original = whisper.open_original(folder)
    config, generation = original.config, original.generation_config
    times = generation.no_timestamps_token_id + 1
    decoder = Dice(config.vocab_size, generation.eos_token_id, times, eagerness, punctual)
    engine = Engine({"encoder": encoder}, "encoder", decoder, torch.device("cpu"))
    return GraphWhisper(config, generation, engine)
