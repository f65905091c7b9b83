"""Graphs whose steps advance their own state, for the decoding in `exporter.runtime.whisper`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.families.whisper.engine.device import DeviceCache, DeviceDecoder
from exporter.families.whisper.engine.device_stream import DeviceStream
from exporter.families.whisper.engine.engine import ArrayEngine, ArrayHypotheses, Engine
from exporter.families.whisper.graphs.device import BEST, RULED
from exporter.runtime.whisper.engine import Scores, Tokens
from exporter.runtime.whisper.rules import Rules
from exporter.runtime.whisper.streams.ranking import Ranking


class DeviceEngine(ArrayEngine):
    """A `StreamingEngine`, whose hypotheses are `RankingHypotheses`."""

    def __init__(self, engine: Engine, decoder: DeviceDecoder) -> None:
        super().__init__(engine)
        self._decoder = decoder

    def start(self, encoded: Tensor) -> "DeviceHypotheses":
        return DeviceHypotheses(self._engine, encoded, self._decoder)

    @property
    def rows(self) -> int:
        """The rows of the largest step."""
        return self._decoder.most

    def follows(self, rules: Rules) -> bool:
        return _follows(rules)

    def stream(self, rules: Rules, rows: int, no_speech: int | None) -> DeviceStream:
        """Return a stream of at most as many rows as the largest step takes."""
        return DeviceStream(self._decoder, rules, rows, no_speech)


class DeviceHypotheses(ArrayHypotheses):
    """Windows whose next tokens are ranked on the device: a beam search waits once a token."""

    def __init__(self, engine: Engine, encoded: Tensor, decoder: DeviceDecoder) -> None:
        super().__init__(engine, encoded)
        self._cache: DeviceCache
        self._decoder = decoder
        self._rules: Rules | None = None
        self._prompt = 0

    def begin(self, prompts: Tokens, start: int) -> tuple[Scores, Scores]:
        with torch.inference_mode():
            ids = torch.from_numpy(prompts).to(self._engine.device)
            logits = self._decoder.begin(ids, self._encoded, self._cache, (start, -1)).cpu().numpy()
        return logits[:, 0], logits[:, 1]

    def ranks(self, rules: Rules, prompt: int, beams: int) -> bool:
        fits = 2 * beams <= BEST and self.windows * beams <= self._decoder.most
        if not (fits and _follows(rules)):
            return False
        self._rules, self._prompt = rules, prompt
        with torch.inference_mode():
            self._decoder.set_rules(self._cache, rules)
        return True

    def rank(self, rows: Tokens) -> Ranking:
        assert self._rules is not None
        with torch.inference_mode():
            found = self._decoder.rank(self._cache, self._asked(rows, self._rules))
        scores, tokens, mass = (each[: len(rows)] for each in found)
        return Ranking(scores, tokens.astype(np.int64), mass)

    def _asked(self, rows: Tokens, rules: Rules) -> Any:
        """Return what the rules look at, `RULED` of each row, int32 [names, rows]."""
        said, times = rows[:, self._prompt :], rules.times
        asked = np.zeros((len(RULED), len(rows)), np.int32)
        values = {
            "token": rows[:, -1],
            "previous": rows[:, -2] if rows.shape[1] > 1 else 0,
            "latest": -1 if times is None else np.where(said >= times.first, said, -1).max(1),
            "said": said.shape[1],
            "least": rules.min_new,
        }
        for place, name in enumerate(RULED):
            asked[place] = values[name]
        return asked


def _follows(rules: Rules) -> bool:
    """Return whether steps know all that the rules look at, which is not all of a text."""
    return rules.repetition_penalty == 1 and not rules.no_repeat_ngram_size


def array_engine(engine: Engine) -> ArrayEngine:
    """Return an engine on numpy arrays, with what its graphs allow."""
    if isinstance(engine.decoder, DeviceDecoder):
        return DeviceEngine(engine, engine.decoder)
    return ArrayEngine(engine)
