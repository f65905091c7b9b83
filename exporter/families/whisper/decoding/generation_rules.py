"""The rules that this package's decoding loops follow, from the settings of `generate`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import GenerationConfig


@dataclass(frozen=True)
class Rules:
    """The rules for decoding a window; lengths include the prompt's tokens.

    `never` are suppressed tokens, `not_first` tokens suppressed at the first step, `timestamps` the
    first of the timestamp tokens, and `words` the first after them, which was added later.
    """

    prompt: tuple[int, ...]
    end: int
    min_length: int
    max_length: int
    never: NDArray[np.int64]
    not_first: NDArray[np.int64]
    length_penalty: float
    timestamps: int
    words: int

    def suppress(self, scores: NDArray[np.float32], length: int) -> None:
        """Suppress in `scores` [rows, vocabulary] tokens that may not follow `length` tokens."""
        scores[:, self.never] = -np.inf
        if length == len(self.prompt):
            scores[:, self.not_first] = -np.inf
        if length < self.min_length:
            scores[:, self.end] = -np.inf


def read_rules(model: Any, settings: GenerationConfig) -> Rules | None:
    """Return the rules that a model's settings mean; None if `generate` has to decode."""
    end, prompt = settings.eos_token_id, _prompt(model, settings)
    penalties = settings.repetition_penalty != 1.0 or settings.no_repeat_ngram_size
    several_ends = not isinstance(end, int) or settings.pad_token_id != end
    if prompt is None or penalties or several_ends:
        return None
    before, longest = len(prompt), settings.max_length
    if settings.max_new_tokens is not None:
        longest = settings.max_new_tokens + before
    if not before < longest <= model.config.max_target_positions:
        return None
    return Rules(
        prompt=prompt,
        end=end,
        min_length=(settings.min_new_tokens or 0) + before,
        max_length=longest,
        never=_tokens(settings.suppress_tokens, model),
        not_first=_tokens(settings.begin_suppress_tokens, model),
        length_penalty=settings.length_penalty,
        timestamps=settings.no_timestamps_token_id + 1,
        words=settings.no_timestamps_token_id + 1 + model.config.max_source_positions + 1,
    )


def _prompt(model: Any, settings: GenerationConfig) -> tuple[int, ...] | None:
    """Return the prompt, as in transformers; None if it would first detect the language."""
    language = getattr(settings, "language", None)
    if not isinstance(language, str) and hasattr(settings, "lang_to_id"):
        return None
    tokens = model._retrieve_init_tokens(
        None,
        batch_size=1,
        generation_config=settings,
        config=model.config,
        num_segment_frames=0,
        kwargs={},
    )
    return tuple(tokens[0].tolist())


def _tokens(listed: list[int] | None, model: Any) -> NDArray[np.int64]:
    size = model.config.vocab_size
    return np.array([token for token in listed or () if 0 <= token < size], np.int64)
