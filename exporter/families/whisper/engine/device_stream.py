"""Greedy texts on a device: it decodes by itself, and the host looks at its tokens now and then.

The host always looks at what was there before the last steps that it started, so that the device
has work meanwhile. Steps after a row's end are wasted; what they say is not looked at.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.families.whisper.engine.device import DeviceDecoder
from exporter.families.whisper.engine.device_memory import Rows
from exporter.families.whisper.graphs.device import RING
from exporter.runtime.whisper.rules import Rules
from exporter.runtime.whisper.search import Found
from exporter.runtime.whisper.streams.stream import Ask, Told

_OFTEN, _SELDOM = 2, 4  # steps from one look to the next: of few rows, and of many
_FEW = 8


@dataclass
class _Running:
    """A window that is being decoded.

    `launched` counts the steps that were started for it; `silence` waits for the probability that
    nobody speaks.
    """

    key: int
    row: int
    slot: int
    limit: int
    silence: Callable[[], float | None]
    tokens: list[int] = field(default_factory=list)
    launched: int = 0
    done: bool = False


@dataclass(frozen=True)
class _Look:
    """Tokens of some steps on their way to the host, and the windows that they are of, by row."""

    turns: Sequence[int]
    running: Sequence[_Running | None]
    copied: Callable[[], list[NDArray[Any]]]


class DeviceStream:
    """Rows of which each decodes a window, and then the next one: see `Stream`."""

    def __init__(
        self,
        decoder: DeviceDecoder,
        rules: Rules,
        rows: int,
        no_speech: int | None,
        every: int | None = None,
    ) -> None:
        self._decoder, self._rules, self._no_speech = decoder, rules, no_speech
        self._most = min(rows, decoder.most)
        self._every = every
        slots = decoder.fitting(self._most)
        self._memory = decoder.acquire(slots, slots)
        self._memory.set_rules(rules)
        self._transfer = self._memory.transfer
        self._rows: Rows | None = None
        self._by_row: list[_Running | None] = []
        self._slots: list[int] = []  # of each row, no two alike: idle rows write to theirs too
        self._looks: deque[_Look] = deque()
        self._keys = count()

    @property
    def free(self) -> int:
        return self._most - self.running

    @property
    def running(self) -> int:
        return sum(one is not None for one in self._by_row)

    def add(self, windows: Sequence[Ask]) -> list[int]:
        with torch.inference_mode():
            rows = self._fit(self.running + len(windows))
            idle = [row for row, one in enumerate(self._by_row) if one is None][: len(windows)]
            slots = [self._slots[row] for row in idle]
            silences = self._prompt(windows, slots)
            lengths = [len(one.prompt) for one in windows]
            limits = [self._rules.longest(length) - length for length in lengths]
            rows.set(
                idle,
                token=[one.prompt[-1] for one in windows],
                latest=[-1] * len(idle),
                least=[self._rules.min_new] * len(idle),
                position=[length - 1 for length in lengths],
                limit=limits,
                slots=slots,
                window=slots,
            )
        begun = [
            _Running(next(self._keys), row, slot, limit, silence)
            for row, slot, limit, silence in zip(idle, slots, limits, silences, strict=True)
        ]
        for one in begun:
            self._by_row[one.row] = one
        return [one.key for one in begun]

    def advance(self) -> list[Told]:
        with torch.inference_mode():
            launched = bool(self.running) and self._launch()
        if not self._looks or (launched and len(self._looks) == 1):
            return []
        told = self._read(self._looks.popleft())
        if not self.running:
            self._looks.clear()
        return told

    def release(self) -> None:
        self._decoder.give_back(self._memory)

    def _fit(self, wanted: int) -> Rows:
        """Return rows for so many windows, in which the running ones go on."""
        fitting = self._decoder.fitting(wanted)
        former = self._rows
        if former is not None and former.count == fitting:
            return former
        running = [one for one in self._by_row if one is not None]
        taken = [one.slot for one in running]
        others = [slot for slot in range(self._memory.slots) if slot not in taken]
        self._by_row = [*running, *[None] * (fitting - len(running))]
        self._slots = [*taken, *others][:fitting]
        rows = self._rows = self._memory.rows(fitting)
        if former is not None:
            rows.take(range(len(running)), former, [one.row for one in running])
        for row, one in enumerate(running):
            one.row = row
        idle = range(len(running), fitting)
        rows.idle(idle, self._slots[len(running) :])
        return rows

    def _prompt(
        self, windows: Sequence[Ask], slots: Sequence[int]
    ) -> list[Callable[[], float | None]]:
        """Decode the prompts at once; return what waits for the probabilities asked for.

        Shorter ones are filled up: the tokens that follow overwrite what that leaves in the caches.
        The last token of each is decoded once more, by the first step.
        """
        longest = max(len(one.prompt) for one in windows)
        numbers = np.full((len(windows), longest + 2), self._rules.end, np.int32)
        for row, (one, slot) in enumerate(zip(windows, slots, strict=True)):
            numbers[row, : len(one.prompt)] = one.prompt
            numbers[row, -2:] = slot, one.start
        uploaded = self._transfer.upload(numbers)
        ids, places, start = uploaded[:, :-2], uploaded[:, -2], uploaded[:, -1:]
        encoded = torch.cat([one.encoded[one.place : one.place + 1] for one in windows])
        self._decoder.hear(self._memory, encoded, places.contiguous())
        found = self._decoder.prompt(
            self._memory, ids, torch.zeros_like(places), places, places, start
        )
        if self._no_speech is None:
            return [lambda: None] * len(windows)
        return self._silences(found["logits"][:, 0], self._no_speech)

    def _silences(self, logits: Tensor, token: int) -> list[Callable[[], float | None]]:
        copied = self._transfer.download(logits.softmax(-1)[:, token].contiguous())

        def of(row: int) -> Callable[[], float | None]:
            return lambda: float(copied()[0][row])

        return [of(row) for row in range(len(logits))]

    def _launch(self) -> bool:
        """Start the next steps, and the copy of their tokens; return whether any was left."""
        rows = self._fit(self.running)
        running = [one for one in self._by_row if one is not None]
        left = max(one.limit - one.launched for one in running)
        steps = min(self._every or (_OFTEN if rows.count < _FEW else _SELDOM), left)
        if not steps:
            return False
        turns = [(rows.turn + step) % RING for step in range(steps)]
        for _ in turns:
            rows.step()
        for one in running:
            one.launched += steps
        copied = self._transfer.download(rows.ring, rows.logprob)
        self._looks.append(_Look(turns, [*self._by_row], copied))
        return True

    def _read(self, look: _Look) -> list[Told]:
        """Take tokens that have arrived; return the windows that end with them."""
        ring, logprobs = look.copied()
        told: list[Told] = []
        for row, one in enumerate(look.running):
            if one is None or one.done:
                continue
            ended = self._say(one, ring[look.turns, row].tolist())
            if one.done:
                self._by_row[one.row] = None
                found = Found(one.tokens, ended=ended, logprob=float(logprobs[row]))
                told.append(Told(one.key, found, one.silence()))
        return told

    def _say(self, one: _Running, tokens: Sequence[int]) -> bool:
        """Continue a window's text; return whether the model ends it."""
        for token in tokens:
            if token in self._rules.ends:
                one.done = True
                return True
            one.tokens.append(token)
            if len(one.tokens) == one.limit:
                one.done = True
                return False
        return False
