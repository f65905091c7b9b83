"""Check a recipe's decoding options against a checkpoint's configs."""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from exporter.families.base import Configs
from exporter.families.whisper.decoding.settings import SHARED
from exporter.recipe import Decoding
from exporter.runtime.whisper.language import LANGUAGE_CODES
from exporter.runtime.whisper.options import (
    Options,
    check_options,
    most_new_tokens,
    prompt_tokens,
    unknown_language,
)
from exporter.runtime.whisper.settings import CONFIG, GENERATION, is_multilingual

# Wishes that change the text and that recipes have no option for; other keys have no effect on it.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_OTHERS = (
    *("bad_words_ids", "constraints"),
    *("diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size"),
    *("encoder_repetition_penalty", "exponential_decay_length_penalty", "force_words_ids"),
    *("forced_bos_token_id", "forced_eos_token_id", "guidance_scale"),
    *("max_time", "min_length", "min_new_tokens", "num_beam_groups"),
    *("num_return_sequences", "penalty_alpha", "renormalize_logits", "sequence_bias"),
    *("stop_strings", "watermarking_config"),
)

# The defaults of transformers 4, which release 5 writes as none.
_USUAL: Mapping[str, Any] = {
    **dict.fromkeys(("do_sample", "early_stopping", "renormalize_logits"), False),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("diversity_penalty", "epsilon_cutoff", "eta_cutoff"), 0.0),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("length_penalty", "repetition_penalty", "temperature", "top_p"), 1.0),
    **dict.fromkeys(("encoder_repetition_penalty", "typical_p"), 1.0),
    "max_length": 20,
    "top_k": 50,
}

# The names of generation configs for what a recipe can ask for, and the recipe's.
_OPTIONS = {name: name for name in SHARED} | {
    "compression_ratio_threshold": "compression_ratio_threshold",
    "logprob_threshold": "logprob_threshold",
    "no_speech_threshold": "no_speech_threshold",
    "condition_on_prev_tokens": "condition_on_previous",
}

# Codes of three letters, as FLEURS has for Mandarin.
_ALIASES = {"cmn": "zh", "eng": "en"}

_log = logging.getLogger(__name__)


class _Wish(NamedTuple):
    """A value in a generation config, and the options of a recipe that follow it."""

    value: Any
    options: Mapping[str, Any]


def check_decoding(configs: Configs, decoding: Decoding) -> None:
    """Check that the checkpoint supports the options, else its text would be wrong.

    Warns if the checkpoint's generation config asks for another decoding than the recipe's.

    Raises:
        RecipeError: The checkpoint lacks the language or the task, or decodes fewer tokens, or
            options do not go together.
        CheckpointError: The generation config lacks values that the prompt needs.
    """
    config, generation_config = configs[CONFIG], configs[GENERATION]
    options = Options.of(dict(decoding))
    check_options(config, generation_config, options)
    most = most_new_tokens(config, generation_config, options)
    prompt = prompt_tokens(config, generation_config)
    _tell_ignored(_wishes(configs, decoding, most, prompt), most)


def _wishes(configs: Configs, decoding: Decoding, most: int, prompt: int) -> dict[str, _Wish]:
    """Return what a checkpoint asks for, and a recipe neither does nor decides otherwise."""
    stored, usual = {**configs[CONFIG], **configs[GENERATION]}, _USUAL
    names = (*_OPTIONS, *_OTHERS, *(_SAMPLING if stored.get("do_sample") is True else ()))
    asked = [n for n in names if stored.get(n) not in (None, usual.get(n, False))]
    wishes = {n: _Wish(stored[n], _followed(n, stored[n])) for n in asked}
    length, times = stored.get("max_length"), stored.get("return_timestamps")
    shorter = isinstance(length, int) and prompt < length < most + prompt
    if length and shorter and length != usual["max_length"] and "max_new_tokens" not in asked:
        wishes["max_length"] = _Wish(length, {"max_new_tokens": length - prompt})
    if times is True:
        wishes["return_timestamps"] = _Wish(times, {"timestamps": True})
    if forced := _forced(configs[GENERATION], decoding):
        wishes["forced_decoder_ids"] = _Wish(stored["forced_decoder_ids"], forced)
    decided = decoding.model_fields_set
    return {n: wish for n, wish in wishes.items() if not wish.options.keys() & decided}


def _followed(name: str, value: Any) -> dict[str, Any]:
    """Return the recipe's option that follows a wish, if there is one."""
    return {_OPTIONS[name]: value} if name in _OPTIONS else {}


def _forced(generation_config: Mapping[str, Any], decoding: Decoding) -> dict[str, str]:
    """Return language and task of an old prompt if neither the recipe nor a newer key has them."""
    pairs = generation_config.get("forced_decoder_ids")
    ids = [pair[-1] for pair in pairs or () if isinstance(pair, list | tuple) and pair]
    found = {
        option: token.strip("<|>")
        for option, table in (("language", "lang_to_id"), ("task", "task_to_id"))
        for token, number in (generation_config.get(table) or {}).items()
        if number in ids
    }
    usual = {"task": "transcribe"}
    return {
        option: value
        for option, value in found.items()
        if not getattr(decoding, option)
        and not generation_config.get(option)
        and value != usual.get(option)
    }


def _tell_ignored(wishes: Mapping[str, _Wish], most: int) -> None:
    """Warn of a checkpoint's wishes, once for all, and of how a recipe follows them."""
    if not wishes:
        return
    shown = ", ".join(f"{name} {json.dumps(wish.value)[:60]}" for name, wish in wishes.items())
    options = {
        name: value
        for wish in wishes.values()
        for name, value in wish.options.items()
        if _possible(name, value, most)
    }
    pairs = ", ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in options.items()
    )
    what = "it" if len(options) == len(wishes) else "what a recipe can"
    hint = f"write `decoding: {{{pairs}}}` to keep {what}" if options else "a recipe cannot"
    _log.warning("%s asks for %s, which the recipe does not: %s", GENERATION, shown, hint)


def _possible(name: str, value: Any, most: int) -> bool:
    """Return whether a recipe's decoding may have the value for this checkpoint."""
    try:
        Decoding.model_validate({name: value}, strict=True)
    except ValidationError:
        return False
    return name != "max_new_tokens" or value <= most


def text_language(configs: Configs, decoding: Decoding, spoken: str | None) -> str | None:
    """Return the language of the transcripts; translations and English-only models give English."""
    if decoding.task == "translate":
        return "en"
    several = is_multilingual(configs[CONFIG], configs[GENERATION])
    return decoding.language or spoken or (None if several else "en")


def language_code(configs: Configs, name: str) -> str | None:
    """Return the code of a language by code, tag or name; None for an English-only model.

    Raises:
        RecipeError: The checkpoint lacks it.
    """
    generation_config = configs[GENERATION]
    if not is_multilingual(configs[CONFIG], generation_config):
        return None
    known = [token[2:-2] for token in generation_config.get("lang_to_id") or ()]
    spoken = name.strip().lower().removeprefix("<|").removesuffix("|>")
    first = re.split(r"\W|_", spoken)[0]
    codes = (spoken, LANGUAGE_CODES.get(spoken), first, _ALIASES.get(first))
    code = next((code for code in codes if code in known), None)
    if code is None:
        raise unknown_language(name, known)
    return code
