"""The settings of `generate`: the model's own from its checkpoint, all others from the recipe.

A checkpoint's `generation_config.json` holds both: what belongs to the model, such as the ids of
its special tokens, and wishes for decoding, such as beams and penalties. transformers follows a
wish on one road and not on another, so all wishes are dropped here; `options` tells them.
"""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from exporter.families.whisper.decoding.workload import Workload
from exporter.recipe import Decoding

_OWN = (
    *("alignment_heads", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id"),
    *("eos_token_id", "is_multilingual", "lang_to_id", "language", "max_initial_timestamp_index"),
    *("no_timestamps_token_id", "pad_token_id", "prev_sot_token_id", "suppress_tokens", "task"),
    "task_to_id",
)
# The names of a recipe's options that generation configs have too.
SHARED = (
    *("num_beams", "length_penalty", "repetition_penalty", "no_repeat_ngram_size"),
    "max_new_tokens",
)
_ENGLISH_VOCABULARY = 51864  # multilingual vocabularies are larger


def model_settings(stored: Mapping[str, Any], positions: int) -> GenerationConfig:
    """Return those settings of a generation config that belong to the model.

    Args:
        stored: The contents of `generation_config.json`.
        positions: The most tokens that the model decodes, the prompt included.
    """
    own = {name: stored[name] for name in _OWN if stored.get(name) is not None}
    if own.get("is_multilingual") is False:  # transformers fails if such a model has them
        own = {name: value for name, value in own.items() if name not in ("language", "task")}
    return GenerationConfig(**own, max_length=positions)


def settings_of(model: Any, decoding: Decoding, *, timestamps: bool) -> GenerationConfig:
    """Return all settings for transcribing with a model, whatever its generation config says.

    A multilingual model always gets a task: with neither language nor task, the `config.json` of
    old checkpoints would force a language.
    """
    config = model.config
    settings = model_settings(vars(model.generation_config), config.max_target_positions)
    settings.return_timestamps = timestamps
    if is_multilingual({"vocab_size": config.vocab_size}, vars(settings)):
        settings.language = decoding.language or getattr(settings, "language", None)
        settings.task = decoding.task or getattr(settings, "task", None) or "transcribe"
    for name in SHARED:
        setattr(settings, name, getattr(decoding, name))
    workload: Workload | None = getattr(model, "workload", None)
    if workload is not None:
        workload.apply(settings, config.vocab_size)
    return settings


def with_settings(model: Any, settings: GenerationConfig) -> Any:
    """Return a view of the model with these settings, so that other threads do not see them.

    As an argument of `generate`, values equal to transformers' defaults would count as not given.
    """
    view = copy.copy(model)
    view.generation_config = settings
    return view


def is_multilingual(config: Mapping[str, Any], generation_config: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's prompt has language and task.

    Old configs do not say: then it follows from their languages, or from the vocabulary's size.
    """
    declared = generation_config.get("is_multilingual")
    if declared is not None:
        return bool(declared)
    english = config.get("vocab_size") == _ENGLISH_VOCABULARY
    return bool(generation_config.get("lang_to_id")) or not english
