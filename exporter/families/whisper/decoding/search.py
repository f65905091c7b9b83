"""Greedy and beam search, token for token as transformers' `generate`.

This code runs for every token, so it is optimised for speed: it uses numpy on the vocabulary, which
takes microseconds where torch's operators and Python objects take milliseconds. It runs on the CPU;
implementations of `Hypotheses` on another device copy their tensors.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.families.whisper.decoding.generation_rules import Rules

Scores = NDArray[np.float32]
Tokens = NDArray[np.int64]

_NEVER = np.float32(-1e9)  # transformers' score of excluded candidates
_BLOCK = 64


class Hypotheses(Protocol):
    """Windows being decoded, with one or more hypotheses each; row r is of window r // beams.

    All arguments and results are on the CPU.
    """

    windows: int

    def step(self, ids: Tensor) -> Tensor:
        """Return float32 logits [rows, vocabulary], writable, after ids [rows, tokens]."""
        ...

    def expand_beams(self, beams: int) -> None:
        """Repeat each window's hypothesis `beams` times."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Replace row r by the former row rows[r]."""
        ...


def greedy(hypotheses: Hypotheses, rules: Rules) -> list[list[int]]:
    """Decode by choosing the most likely token at every step.

    Returns:
        The tokens of each window, without prompt and end.
    """
    ids = torch.tensor([rules.prompt]).expand(hypotheses.windows, -1)
    running = np.ones(hypotheses.windows, bool)
    chosen: list[Tokens] = []
    for length in range(len(rules.prompt), rules.max_length):
        scores = hypotheses.step(ids).numpy()
        rules.suppress(scores, length)
        tokens = np.where(running, scores.argmax(-1), rules.end)
        chosen.append(tokens)
        running &= tokens != rules.end
        if not running.any():
            break
        ids = torch.from_numpy(tokens)[:, None]
    return [_until(row, rules.end) for row in np.stack(chosen, 1)]


def beam_search(hypotheses: Hypotheses, rules: Rules, beams: int) -> list[list[int]]:
    """Decode by beam search, as `GenerationMixin._beam_search` of transformers.

    Returns:
        The tokens of each window's best hypothesis of `beams`, without prompt and end.
    """
    windows = hypotheses.windows
    state = _Beams(rules, windows, beams)
    ids = torch.tensor([rules.prompt]).expand(windows, -1)
    before = np.zeros((windows, 1), np.float32)  # at first all hypotheses of a window are equal
    alike = np.arange(windows * beams)
    while True:
        scores = hypotheses.step(ids).log_softmax(-1)
        rules.suppress(scores.numpy(), state.length)
        state.choose(*_best(scores, before, 2 * beams))
        if not state.running:
            break
        if before.shape[1] < beams:
            hypotheses.expand_beams(beams)
        elif not np.array_equal(state.parents, alike):
            hypotheses.reorder(torch.from_numpy(state.parents))
        ids, before = torch.from_numpy(state.last[:, None]), state.scores
    return [_until(row[len(rules.prompt) :], rules.end) for row in state.finished[:, 0]]


class _Beams:
    """The state of a beam search between two steps: running and finished hypotheses.

    Sequences are [windows, beams, max_length], padded with the end token; scores are [windows,
    beams] in float32, rounded as in transformers.
    """

    def __init__(self, rules: Rules, windows: int, beams: int) -> None:
        self._rules = rules
        self._beams = beams
        self._window = np.arange(windows)[:, None]
        self.length = len(rules.prompt)
        self._sequences = np.full((windows, beams, rules.max_length), rules.end, np.int64)
        self._sequences[:, :, : self.length] = rules.prompt
        self.scores = np.zeros((windows, beams), np.float32)
        self.finished = self._sequences.copy()
        self._finished_scores = np.full((windows, beams), _NEVER)
        self._ended = np.zeros((windows, beams), bool)
        self._improvable = np.ones((windows, 1), bool)
        self.running = True
        self.parents = np.arange(windows * beams)
        self.last = np.zeros(windows * beams, np.int64)

    def choose(self, scores: Scores, parents: Tokens, tokens: Tokens) -> None:
        """Advance with the 2 * beams most likely continuations [windows, 2 * beams], best first."""
        sequences = self._sequences[self._window, parents]
        sequences[:, :, self.length] = tokens
        ends = (tokens == self._rules.end) | (self.length + 1 >= self._rules.max_length)
        self._go_on(scores, parents, sequences, ends)
        if ends[:, : self._beams].any():
            self._finish(scores, sequences, ends)
        self.length += 1
        self._look_ahead(bool(ends.all()))

    def _go_on(self, scores: Scores, parents: Tokens, sequences: Tokens, ends: Tokens) -> None:
        """Keep the best hypotheses that have not ended."""
        open_scores = scores + ends * _NEVER
        best = _descending(open_scores)[:, : self._beams]
        self._sequences = sequences[self._window, best]
        self.scores = open_scores[self._window, best]
        first_row = self._window * self._beams
        self.parents = (parents[self._window, best] + first_row).ravel()
        self.last = self._sequences[:, :, self.length].ravel()

    def _finish(self, scores: Scores, sequences: Tokens, ends: Tokens) -> None:
        """Keep the best finished hypotheses; new ones count among the first `beams` only."""
        now = ends.copy()
        now[:, self._beams :] = False
        new = self.length + 1 - len(self._rules.prompt)
        scores = scores / np.float32(new**self._rules.length_penalty)
        scores = scores + ~self._improvable * _NEVER + ~now * _NEVER
        merged = np.concatenate([self._finished_scores, scores], 1)
        best = _descending(merged)[:, : self._beams]
        self.finished = np.concatenate([self.finished, sequences], 1)[self._window, best]
        self._finished_scores = merged[self._window, best]
        self._ended = np.concatenate([self._ended, now], 1)[self._window, best]

    def _look_ahead(self, all_ended: bool) -> None:
        """Stop windows whose running hypotheses cannot become better than the finished ones."""
        new = self.length - len(self._rules.prompt)
        possible = self.scores[:, :1] / np.float32(new**self._rules.length_penalty)
        worst = self._finished_scores.min(1, keepdims=True)
        worst = np.where(self._ended, worst, _NEVER)
        self._improvable &= (possible > worst).any(-1, keepdims=True)
        self.running = bool(self._improvable.any()) and not all_ended


def _best(scores: Tensor, before: Scores, count: int) -> tuple[Scores, Tokens, Tokens]:
    """Return the `count` most likely continuations of each window, best first.

    `scores` [windows * beams, vocabulary] are added to `before` [windows, beams].
    """
    windows, size = len(before), scores.shape[1]
    places = _candidates(scores, before, count)
    window = np.arange(windows)[:, None]
    sums = scores.numpy().reshape(windows, -1)[window, places] + before[window, places // size]
    best = np.argpartition(sums, -count, 1)[:, -count:]
    order = best[window, _descending(sums[window, best])]
    chosen = places[window, order]
    return sums[window, order], chosen // size, chosen % size


def _candidates(scores: Tensor, before: Scores, count: int) -> Tokens:
    """Return indices into each window's beams * vocabulary that include the `count` best.

    The best are in the `count` blocks with the largest maxima. A block is a column of the
    vocabulary reshaped to `_BLOCK` rows, so that maxima of many blocks are computed at once.
    """
    windows, beams = before.shape
    size = scores.shape[1]
    width = size // _BLOCK
    if beams * width <= count:
        return np.broadcast_to(np.arange(beams * size), (windows, beams * size))
    cut = scores[:, : _BLOCK * width].unflatten(1, (_BLOCK, width))
    maxima = cut.amax(1).numpy().reshape(windows, beams, width) + before[:, :, None]
    blocks = np.argpartition(maxima.reshape(windows, -1), -count, 1)[:, -count:]
    first = blocks // width * size + blocks % width
    inside = first[:, :, None] + np.arange(0, _BLOCK * width, width)
    rest = np.arange(beams)[:, None] * size + np.arange(_BLOCK * width, size)
    beyond = np.broadcast_to(rest.ravel(), (windows, rest.size))
    return np.concatenate([inside.reshape(windows, -1), beyond], 1)


def _descending(scores: Scores) -> Tokens:
    """Return the indices that sort each row in descending order; the sort is stable."""
    return np.argsort(-scores, 1, kind="stable")


def _until(row: Tokens, end: int) -> list[int]:
    tokens: list[int] = row.tolist()
    return tokens[: tokens.index(end)] if end in tokens else tokens
