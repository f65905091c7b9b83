"""Transcribe audio, for the original and for every artifact."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from exporter.errors import CheckpointError, RecipeError
from exporter.families.base import Configs
from exporter.families.transcript import Audio, Segment, Transcript
from exporter.families.whisper.decoding import loop
from exporter.families.whisper.decoding.log_mel import log_mel
from exporter.recipe import Decoding

_ENGLISH_VOCABULARY = 51864  # multilingual vocabularies are larger

_log = logging.getLogger(__name__)


CONFIG, GENERATION = "config.json", "generation_config.json"


def check_decoding(configs: Configs, decoding: Decoding) -> None:
    """Check that the checkpoint has the language and the task, else its text would be wrong.

    Raises:
        RecipeError: The checkpoint lacks the language or the task.
        CheckpointError: The generation config lacks values that the prompt needs.
    """
    config, generation_config = configs[CONFIG], configs[GENERATION]
    if not is_multilingual(config, generation_config):
        _require_keys(generation_config, "no_timestamps_token_id")
        options = {"language": decoding.language, "task": decoding.task}
        extra = [name for name, value in options.items() if value is not None]
        if extra:
            msg = f"an English-only checkpoint takes no {' or '.join(extra)}: leave it out"
            raise RecipeError(msg)
        return
    _require_keys(generation_config, "no_timestamps_token_id", "lang_to_id", "task_to_id")
    known = [token[2:-2] for token in generation_config["lang_to_id"]]
    if decoding.language is not None and decoding.language not in known:
        raise _unknown_language(decoding.language, known)
    tasks = generation_config["task_to_id"]
    if decoding.task is not None and decoding.task not in tasks:
        msg = f"the checkpoint has no task {decoding.task!r}: {', '.join(tasks)}"
        raise RecipeError(msg)
    if decoding.task == "translate" and config.get("decoder_layers", 0) < config.get(
        "encoder_layers", 0
    ):
        # A warning only: no config says it for certain, and some of these checkpoints do translate.
        _log.warning(
            "its decoder has fewer layers than its encoder: distilled checkpoints like "
            "large-v3-turbo and distil-whisper were not trained to translate"
        )


def is_multilingual(config: Mapping[str, Any], generation_config: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's prompt has language and task.

    Old configs do not say: then it follows from their languages, or from the vocabulary's size.
    """
    declared = generation_config.get("is_multilingual")
    if declared is not None:
        return bool(declared)
    english = config.get("vocab_size") == _ENGLISH_VOCABULARY
    return bool(generation_config.get("lang_to_id")) or not english


def text_language(configs: Configs, decoding: Decoding, spoken: str | None) -> str | None:
    """Return the language of the transcripts; translations and English-only models give English."""
    if decoding.task == "translate":
        return "en"
    several = is_multilingual(configs[CONFIG], configs[GENERATION])
    return decoding.language or spoken or (None if several else "en")


def _require_keys(generation_config: Mapping[str, Any], *keys: str) -> None:
    """Refuse a generation config of an old transformers, which lacks parts of the prompt."""
    missing = [key for key in keys if generation_config.get(key) in (None, {})]
    if missing:
        msg = (
            f"its generation_config.json has no {', '.join(missing)}.\n"
            "Take the one of the model that this checkpoint was trained from, as it is today."
        )
        raise CheckpointError(msg)


def _unknown_language(language: str, known: list[str]) -> RecipeError:
    spoken = language.lower()
    code = TO_LANGUAGE_CODE.get(spoken, re.split(r"\W|_", spoken.strip("<|>"))[0])
    if code in known:
        return RecipeError(f"the checkpoint has no language {language!r}: did you mean {code!r}?")
    shown = ", ".join(sorted(known)[:12]) + (" ..." if len(known) > 12 else "")
    return RecipeError(f"the checkpoint has no language {language!r}: {shown}")


def transcribe(
    model: Any, processor: Any, audio: Sequence[Audio], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order.

    `model` is a `WhisperForConditionalGeneration`, `processor` its `WhisperProcessor`; transformers
    does not type the parts of both.

    Recordings within the window are decoded `decoding.batch_size` at a time; longer ones one by
    one, with timestamps, because `generate` moves its window from one timestamp to the next.
    """
    window = processor.feature_extractor.n_samples
    short = [index for index, samples in enumerate(audio) if len(samples) <= window]
    size = decoding.batch_size
    groups = [short[start : start + size] for start in range(0, len(short), size)]
    groups += [[index] for index, samples in enumerate(audio) if len(samples) > window]
    transcripts: dict[int, Transcript] = {}
    for group in groups:
        decoded = _decode(model, processor, [audio[index] for index in group], decoding)
        transcripts.update(zip(group, decoded, strict=True))
    return [transcripts[index] for index in range(len(audio))]


def _decode(model: Any, processor: Any, audio: list[Audio], decoding: Decoding) -> list[Transcript]:
    """Decode recordings that are encoded together: several short ones, or one long one."""
    long = len(audio[0]) > processor.feature_extractor.n_samples
    timestamps = long or decoding.timestamps
    prompt = _prompt(model, decoding)
    beams = decoding.num_beams
    with torch.inference_mode():
        features, mask = _features(model, processor.feature_extractor, audio, long)
        decoded = None if timestamps else loop.decode(model, features, **prompt, beams=beams)
        if decoded is not None:
            return [_transcript(processor, [_whole(row, features.shape[-1])]) for row in decoded]
        generated = model.generate(
            features.to(model.device),
            attention_mask=mask,
            return_timestamps=timestamps,
            return_segments=True,
            num_beams=beams,
            **{name: value for name, value in prompt.items() if value is not None},
        )
    return [
        _transcript(processor, [{**s, "tokens": s["tokens"].tolist()} for s in segments])
        for segments in generated["segments"]
    ]


def _features(
    model: Any, extractor: Any, audio: list[Audio], long: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log-mel features [recordings, mels, frames], and the mask for long recordings.

    For a model without an `engine`, the original, transformers computes the features too.
    """
    lean_mel = None if long or not hasattr(model, "engine") else log_mel(extractor)
    if lean_mel is not None:
        return lean_mel(audio), None
    features = extractor(
        audio,
        sampling_rate=extractor.sampling_rate,
        truncation=False,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return features.input_features, features.attention_mask


def _whole(tokens: list[int], frames: int) -> dict[str, Any]:
    """Return a window without timestamps as a segment in the form of `generate`."""
    # The same operations and precision as in `generate`, including float32 rounding.
    steps = int(torch.tensor(frames) * 0.01 / 0.02)
    return {"start": 0.0, "end": steps * 0.02, "tokens": tokens}


def _prompt(model: Any, decoding: Decoding) -> dict[str, str | None]:
    """Return language and task for `generate`, which detects the language if it is None.

    A multilingual checkpoint always gets a task: with neither, the `config.json` of old checkpoints
    would force a language.
    """
    generation_config = vars(model.generation_config)
    if not is_multilingual({"vocab_size": model.config.vocab_size}, generation_config):
        return {"language": None, "task": None}
    task = decoding.task or generation_config.get("task") or "transcribe"
    return {"language": decoding.language, "task": task}


def _transcript(processor: Any, segments: list[dict[str, Any]]) -> Transcript:
    """Join one recording's segments, in the form of `generate`, to a transcript."""
    tokenizer = processor.tokenizer
    tokens = [token for segment in segments for token in segment["tokens"]]
    timed = tuple(
        Segment(float(one["start"]), float(one["end"]), _text(tokenizer, one["tokens"]))
        for one in segments
    )
    text = timed[0].text if len(timed) == 1 else _text(tokenizer, tokens)
    return Transcript(text, tuple(speller(tokenizer).spoken(tokens)), timed)


def _text(tokenizer: Any, tokens: list[int]) -> str:
    """Return the text as transformers decodes it: without special tokens and timestamps."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


class Speller:
    """The functions of a tokenizer that `transcribe` needs.

    Words that were added to a tokenizer are text, though their ids are above the timestamps'.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder.items()
        special = {token for token, stored in added if stored.special}
        self._special = special.union(tokenizer.all_special_ids)
        self._timestamps = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
        self._words = {
            token
            for word, token in tokenizer.get_vocab().items()
            if token >= self._timestamps and not tokenizer.timestamp_pat.fullmatch(word)
        }

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that have text: neither special, nor timestamps, nor unknown."""
        return [
            token
            for token in tokens
            if (token < self._timestamps or token in self._words) and token not in self._special
        ]


_spellers: WeakKeyDictionary[Any, Speller] = WeakKeyDictionary()


def speller(tokenizer: Any) -> Speller:
    """Return the tokenizer's speller, created at first use."""
    if tokenizer not in _spellers:
        _spellers[tokenizer] = Speller(tokenizer)
    return _spellers[tokenizer]
