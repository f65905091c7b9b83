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

_ENGLISH_VOCABULARY = 51864  # every multilingual one has more

_log = logging.getLogger(__name__)


CONFIG, GENERATION = "config.json", "generation_config.json"


def check_decoding(configs: Configs, decoding: Decoding) -> None:
    """Refuse a language or task that the checkpoint does not have: its text would be wrong.

    Raises RecipeError, and CheckpointError where the checkpoint leaves its prompt open.
    """
    config, generation_config = configs[CONFIG], configs[GENERATION]
    if not is_multilingual(config, generation_config):
        _require_keys(generation_config, "no_timestamps_token_id")
        options = {"language": decoding.language, "task": decoding.task}
        given = [name for name, value in options.items() if value is not None]
        if given:
            msg = f"an English-only checkpoint takes no {' or '.join(given)}: leave it out"
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
        # Nothing in a checkpoint says so for certain, and some of these do translate.
        _log.warning(
            "its decoder has fewer layers than its encoder: distilled checkpoints like "
            "large-v3-turbo and distil-whisper were not trained to translate"
        )


def is_multilingual(config: Mapping[str, Any], generation_config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's prompt names language and task.

    Old ones do not say: then their languages tell, or a vocabulary of the English-only size.
    """
    declared = generation_config.get("is_multilingual")
    if declared is not None:
        return bool(declared)
    english = config.get("vocab_size") == _ENGLISH_VOCABULARY
    return bool(generation_config.get("lang_to_id")) or not english


def only_language(configs: Configs) -> str | None:
    """The language of a checkpoint that has no other; None where there are several."""
    return None if is_multilingual(configs[CONFIG], configs[GENERATION]) else "en"


def _require_keys(generation_config: Mapping[str, Any], *keys: str) -> None:
    """Refuse a generation config of an old transformers, which would leave prompts incomplete."""
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
    leaves the parts of both untyped.

    Those within the window are decoded `decoding.batch_size` at a time; longer ones one by one,
    with timestamps, because `generate` moves its window from one timestamp to the next.
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
    """Decode recordings that go through the encoder together: several short ones, or one long."""
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
    """Log-mel features [recordings, mels, frames], and the mask that long ones need.

    A model without an `engine`, the original, takes transformers' own as well.
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
    """A window without timestamps, as the one segment that `generate` makes of it."""
    # Its own steps and precision, down to the rounding of a float32.
    steps = int(torch.tensor(frames) * 0.01 / 0.02)
    return {"start": 0.0, "end": steps * 0.02, "tokens": tokens}


def _prompt(model: Any, decoding: Decoding) -> dict[str, str | None]:
    """Language and task for `generate`, which finds the language by itself where none is given.

    A task is always named where there are several: with neither, old checkpoints' `config.json`
    would have its own way, and force a language too.
    """
    generation_config = vars(model.generation_config)
    if not is_multilingual({"vocab_size": model.config.vocab_size}, generation_config):
        return {"language": None, "task": None}
    task = decoding.task or generation_config.get("task") or "transcribe"
    return {"language": decoding.language, "task": task}


def _transcript(processor: Any, segments: list[dict[str, Any]]) -> Transcript:
    """Join one recording's segments, as `generate` returns them, their tokens listed."""
    tokenizer = processor.tokenizer
    spelling = speller(tokenizer)
    tokens: list[int] = []
    timed = []
    for segment in segments:
        ids = spelling.spoken(segment["tokens"])
        tokens += ids
        text = tokenizer.decode(ids).strip()
        timed.append(Segment(float(segment["start"]), float(segment["end"]), text))
    text = timed[0].text if len(timed) == 1 else tokenizer.decode(tokens).strip()
    return Transcript(text, tuple(tokens), tuple(timed))


class Speller:
    """What `transcribe` needs of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._special = frozenset(tokenizer.all_special_ids)
        self._first_timestamp = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that are text: neither special nor times."""
        return [i for i in tokens if i < self._first_timestamp and i not in self._special]


_spellers: WeakKeyDictionary[Any, Speller] = WeakKeyDictionary()


def speller(tokenizer: Any) -> Speller:
    """The tokenizer's speller, made at its first use."""
    if tokenizer not in _spellers:
        _spellers[tokenizer] = Speller(tokenizer)
    return _spellers[tokenizer]
