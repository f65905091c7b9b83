"""The part of a generation config that this package's decoding loops implement.

For a config with any other setting there are no rules, and transformers' `generate` decodes.
"""

import copy
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import GenerationConfig

_log = logging.getLogger(__name__)

_FOLLOWED = {"begin_suppress_tokens", "decoder_start_token_id", "early_stopping", "eos_token_id"}
_FOLLOWED |= {"is_multilingual", "lang_to_id", "language", "length_penalty", "max_length"}
_FOLLOWED |= {"max_new_tokens", "min_length", "min_new_tokens", "no_timestamps_token_id"}
_FOLLOWED |= {"pad_token_id", "suppress_tokens", "task", "task_to_id"}
# Settings without effect on greedy or beam search within one window, without timestamps;
# `num_beams` and `return_timestamps` are passed to `generate` as arguments.
_IDLE = {"alignment_heads", "bos_token_id", "max_initial_timestamp_index", "median_filter_width"}
_IDLE |= {"forced_decoder_ids", "num_beams", "prev_sot_token_id", "return_timestamps"}
_IDLE |= {"transformers_version"}


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
    early_stopping: bool | str
    timestamps: int
    words: int

    def suppress(self, scores: NDArray[np.float32], length: int) -> None:
        """Suppress in `scores` [rows, vocabulary] tokens that may not follow `length` tokens."""
        scores[:, self.never] = -np.inf
        if length == len(self.prompt):
            scores[:, self.not_first] = -np.inf
        if length < self.min_length:
            scores[:, self.end] = -np.inf


def read_rules(model: Any, language: str | None, task: str | None) -> Rules | None:
    """Return the rules of a model's generation config; None if `generate` has to decode.

    Args:
        model: A model with `generation_config`.
        language: A language code; None for the config's.
        task: "transcribe" or "translate"; None for the config's.
    """
    config = copy.deepcopy(model.generation_config)
    unknown = _unknown(config)
    if unknown:
        _log.info("decoding with transformers' generate because of %s", ", ".join(unknown))
        return None
    prompt = _prompt(model, config, language, task)
    places = model.config.max_target_positions
    if prompt is None or len(prompt) + (config.max_new_tokens or 0) > places:
        return None
    longest = _max_length(config, len(prompt))
    if not len(prompt) < longest <= places:
        return None
    shortest = config.min_length or 0
    if config.min_new_tokens is not None:
        shortest = config.min_new_tokens + len(prompt)
    return Rules(
        prompt=prompt,
        end=config.eos_token_id,
        min_length=shortest,
        max_length=longest,
        never=_tokens(config.suppress_tokens, model),
        not_first=_tokens(config.begin_suppress_tokens, model),
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        timestamps=config.no_timestamps_token_id + 1,
        words=config.no_timestamps_token_id + 1 + model.config.max_source_positions + 1,
    )


def _unknown(config: GenerationConfig) -> list[str]:
    """Return the config's settings that differ from the defaults and are not in the rules."""
    usual = _defaults()
    unknown = [
        name
        for name, value in vars(config).items()
        if name not in _FOLLOWED | _IDLE
        and not (name.startswith("_") and name != "_from_model_config")
        and value != usual.get(name)
    ]
    if getattr(config, "no_timestamps_token_id", None) is None:
        unknown.append("no_timestamps_token_id")
    if not isinstance(config.eos_token_id, int) or config.pad_token_id != config.eos_token_id:
        unknown.append("eos_token_id and pad_token_id")  # several ends, or a separate padding
    return unknown


@cache
def _defaults() -> dict[str, Any]:
    return dict(vars(GenerationConfig()))


def _prompt(
    model: Any, config: GenerationConfig, language: str | None, task: str | None
) -> tuple[int, ...] | None:
    """Return the prompt, as in transformers; None if it would first detect the language."""
    config.return_timestamps = False
    model._set_language_and_task(language, task, None, config)
    named = getattr(config, "language", None)
    if not isinstance(named, str) and hasattr(config, "lang_to_id"):
        return None
    tokens = model._retrieve_init_tokens(
        None,
        batch_size=1,
        generation_config=config,
        config=model.config,
        num_segment_frames=0,
        kwargs={},
    )
    return tuple(tokens[0].tolist())


def _max_length(config: GenerationConfig, prompt: int) -> int:
    """Return the maximum length, as in transformers: `max_new_tokens` has precedence."""
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens) + prompt
    length: int = config.max_length or 0
    return length + prompt if length == _defaults()["max_length"] else length


def _tokens(listed: list[int] | None, model: Any) -> NDArray[np.int64]:
    size = model.config.vocab_size
    return np.array([token for token in listed or () if 0 <= token < size], np.int64)
