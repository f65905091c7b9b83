"""The rules for which token may follow which, as transformers' logits processors have them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.whisper.engine import Scores, Tokens


@dataclass(frozen=True)
class TimeRules:
    """Rules of timestamps: `WhisperTimeStampLogitsProcessor` of transformers.

    Attributes:
        first: The first token that stands for a time; that before it is <|notimestamps|>.
        end: The token that ends a text.
        max_initial: The last time that a window may begin with, in steps; None for any.
    """

    first: int
    end: int
    max_initial: int | None

    def apply(self, scores: Scores, said: Sequence[int]) -> None:
        """Suppress in `scores` [vocabulary] what may not follow the tokens `said` by the model."""
        scores[self.first - 1] = -np.inf
        last = bool(said) and said[-1] >= self.first
        before = len(said) < 2 or said[-2] >= self.first
        if last and before:  # a pair is complete: text follows
            scores[self.first :] = -np.inf
        elif last:  # a segment has ended: its pair follows, or the end
            scores[: self.end] = -np.inf
        latest = next((token for token in reversed(said) if token >= self.first), None)
        if latest is not None:  # times do not go back; a segment is no moment
            scores[self.first : latest + (0 if last and not before else 1)] = -np.inf
        if not said:
            scores[: self.first] = -np.inf
            if self.max_initial is not None:
                scores[self.first + self.max_initial + 1 :] = -np.inf
        self._prefer(scores)

    def _prefer(self, scores: Scores) -> None:
        """Suppress text where times are likelier together than any other token."""
        times = scores[self.first :]
        most = times.max(initial=-np.inf)
        if most == -np.inf:
            return
        if most + np.log(np.exp(times - most).sum()) > scores[: self.first].max():
            scores[: self.first] = -np.inf


@dataclass(frozen=True)
class Rules:
    """The rules for decoding a window.

    Attributes:
        ends: The tokens that end a text, the usual one first.
        never: Suppressed tokens.
        not_first: Tokens suppressed at the first step.
        max_length: The most tokens, the prompt included.
        min_new: The fewest tokens after the prompt.
        max_new: The most tokens after the prompt; None: as many as `max_length` allows.
        length_penalty: The exponent of the length, by which beams' scores are divided.
        repetition_penalty: Scores of tokens before are divided by it, or multiplied if negative.
        no_repeat_ngram_size: So many tokens in a row may not occur twice; 0 allows it.
        times: The rules of timestamps; None without them.
    """

    ends: tuple[int, ...]
    never: tuple[int, ...]
    not_first: tuple[int, ...]
    max_length: int
    min_new: int = 0
    max_new: int | None = None
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    times: TimeRules | None = None

    @property
    def end(self) -> int:
        """The token that ends a text, and fills up rows that have ended."""
        return self.ends[0]

    def longest(self, prompt: int) -> int:
        """Return the most tokens of a window whose prompt has so many."""
        wanted = self.max_length if self.max_new is None else prompt + self.max_new
        return max(prompt + 1, min(wanted, self.max_length))

    def ended(self, tokens: Tokens) -> NDArray[np.bool_]:
        """Return which tokens end a text."""
        ended: NDArray[np.bool_] = tokens == self.end
        return ended if len(self.ends) == 1 else np.isin(tokens, self.ends)

    def apply(self, scores: Scores, tokens: Tokens, prompt: int) -> None:
        """Suppress what may not follow, in transformers' order.

        Args:
            scores: Logits, or log-probabilities in a beam search, [rows, vocabulary]; changed.
            tokens: The tokens before, the prompt included, [rows, tokens].
            prompt: The tokens of the prompt.
        """
        if self.repetition_penalty != 1:
            self._penalise(scores, tokens)
        if self.no_repeat_ngram_size:
            self._forbid_repeats(scores, tokens)
        new = tokens.shape[1] - prompt
        if new < self.min_new:
            scores[:, list(self.ends)] = -np.inf
        if new == 0:
            scores[:, self._not_first] = -np.inf
        scores[:, self._never] = -np.inf
        if self.times is not None:
            for row, said in zip(scores, tokens[:, prompt:].tolist(), strict=True):
                self.times.apply(row, said)

    @cached_property
    def _never(self) -> Tokens:
        return np.array(self.never, np.int64)

    @cached_property
    def _not_first(self) -> Tokens:
        return np.array(self.not_first, np.int64)

    def _penalise(self, scores: Scores, tokens: Tokens) -> None:
        penalty = np.float32(self.repetition_penalty)
        before = np.take_along_axis(scores, tokens, 1)
        changed = np.where(before < 0, before * penalty, before / penalty)
        np.put_along_axis(scores, tokens, changed, 1)

    def _forbid_repeats(self, scores: Scores, tokens: Tokens) -> None:
        size = self.no_repeat_ngram_size
        length = tokens.shape[1]
        if length + 1 < size:
            return
        for row, before in zip(scores, tokens.tolist(), strict=True):
            lead = before[length + 1 - size :]
            starts = range(length + 1 - size)
            row[
                [before[i + size - 1] for i in starts if before[i : i + size - 1] == lead]
            ] = -np.inf
