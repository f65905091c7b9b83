"""The settings of `generate`: the model's own from its checkpoint, all others from the recipe.

A checkpoint's `generation_config.json` holds both: what belongs to the model, such as the ids of
its special tokens, and wishes for decoding, such as beams and penalties. transformers follows a
wish on one road and not on another, so all wishes are dropped here; `options` tells them.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import GenerationConfig

from exporter.errors import RecipeError
from exporter.recipe import Decoding
from exporter.runtime.whisper.options import Options
from exporter.runtime.whisper.settings import Settings

_OWN = (
    *("alignment_heads", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id"),
    *("eos_token_id", "is_multilingual", "lang_to_id", "language", "max_initial_timestamp_index"),
    *("no_timestamps_token_id", "pad_token_id", "prev_sot_token_id", "suppress_tokens", "task"),
    "task_to_id",
)
_SEVERAL = ("language", "task", "lang_to_id", "task_to_id")  # of multilingual models only
# The names of a recipe's options that generation configs have too.
SHARED = (
    *("num_beams", "length_penalty", "repetition_penalty", "no_repeat_ngram_size"),
    "max_new_tokens",
)
_PROMPT_TOKENS = 4  # start, language, task, no timestamps


def model_settings(stored: Mapping[str, Any], positions: int) -> GenerationConfig:
    """Return those settings of a generation config that belong to the model.

    Args:
        stored: The contents of `generation_config.json`.
        positions: The most tokens that the model decodes, the prompt included.
    """
    own = {name: stored[name] for name in _OWN if stored.get(name) is not None}
    if own.get("is_multilingual") is False:  # transformers fails, or finds a language nevertheless
        own = {name: value for name, value in own.items() if name not in _SEVERAL}
    return GenerationConfig(**own, max_length=positions)


def own_settings(model: Any, extractor: Any = None) -> Settings:
    """Return what an open model's configs say of decoding, and its extractor of features."""
    generation = {name: getattr(model.generation_config, name, None) for name in _OWN}
    return Settings.of(vars(model.config), generation, vars(extractor) if extractor else {})


def options_of(model: Any, decoding: Decoding) -> Options:
    """Return a recipe's options, with what `limit_tokens` or `force_tokens` has set."""
    return replace(Options.of(dict(decoding)), **getattr(model, "workload", {}))


def generation_settings(
    model: Any, settings: Settings, options: Options, *, timestamps: bool
) -> GenerationConfig:
    """Return all settings of `generate`, whatever the model's generation config says.

    A multilingual model always gets a task: with neither language nor task, the `config.json` of
    old checkpoints would force a language.
    """
    rules = options.rules(settings, timestamps=timestamps)
    config = model_settings(vars(model.generation_config), settings.positions)
    config.return_timestamps = timestamps
    config.suppress_tokens = list(rules.never) or None
    config.prev_sot_token_id = settings.previous
    if settings.languages:
        config.language = options.language or settings.language
        config.task = options.task or settings.task
    for name in SHARED:
        setattr(config, name, getattr(options, name))
    if options.max_length is not None:  # whose own meaning differs from release to release
        language = next(iter(settings.languages.values()), None)
        prompt = settings.init(language, options.task, timestamps=timestamps)
        config.max_new_tokens = max(1, options.max_length - len(prompt))
    if rules.min_new:
        config.min_new_tokens = config.max_new_tokens = rules.min_new
    return config


def with_settings(model: Any, settings: GenerationConfig) -> Any:
    """Return a view of the model with these settings, so that other threads do not see them.

    As an argument of `generate`, values equal to transformers' defaults would count as not given.
    """
    view = copy.copy(model)
    view.generation_config = settings
    return view


def limit_tokens(model: Any, tokens: int) -> None:
    """Limit the tokens decoded of a window, including the prompt."""
    model.workload = {"max_length": tokens}


def force_tokens(model: Any, tokens: int) -> bool:
    """Make `transcribe` decode exactly `tokens` tokens of every window.

    Raises:
        RecipeError: The model has too few positions.
    """
    most = model.config.max_target_positions - _PROMPT_TOKENS
    if tokens > most:
        msg = f"--tokens {tokens}: this model decodes at most {most} at a time"
        raise RecipeError(msg)
    model.workload = {"exact_tokens": tokens}
    return True
