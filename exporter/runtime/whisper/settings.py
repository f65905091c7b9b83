"""What a checkpoint's configs say of decoding, as plain data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import IntegrityError
from exporter.runtime.whisper.engine import Heads, Tokens
from exporter.runtime.whisper.features.log_mel import LogMel
from exporter.runtime.whisper.language import LANGUAGE_CODES

CONFIG, GENERATION = "config.json", "generation_config.json"
EXTRACTOR = "preprocessor_config.json"
_ENGLISH_VOCABULARY = 51864  # multilingual vocabularies are larger
POSITIONS = 448  # a Whisper's `max_target_positions` if its config does not say
_VOCABULARY = 51_865  # and its `vocab_size`
_LAYERS, _HEADS = 4, 6  # and its decoder's layers and their heads

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """A checkpoint's own settings; wishes for decoding, such as beams, are not among them.

    Attributes:
        vocabulary: The model's number of tokens, with or without text.
        positions: The most tokens that the model decodes, the prompt included.
        start: The token <|startoftranscript|>.
        ends: The tokens that end a text, the usual one first.
        no_timestamps: The token before those of the timestamps.
        previous: The token before text that precedes the window; None if there is none.
        max_initial: The last timestamp that a window may begin with, in steps; None for any.
        never: Suppressed tokens.
        not_first: Tokens suppressed at the first step.
        languages: Tokens of languages by code, of tasks by name; empty if English-only.
        tasks: The same for tasks.
        language: The checkpoint's own language by code; None: it is found.
        task: The checkpoint's own task.
        mel: Its features.
        alignment_heads: The heads, by layer and place, that attend to where a word is spoken.
    """

    vocabulary: int
    positions: int
    start: int
    ends: tuple[int, ...]
    no_timestamps: int
    previous: int | None
    max_initial: int | None
    never: tuple[int, ...]
    not_first: tuple[int, ...]
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    language: str | None
    task: str
    mel: LogMel
    alignment_heads: Heads

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """Read the configs of an artifact.

        Raises:
            IntegrityError: One is missing or not readable.
        """
        config, generation = read_values(folder / CONFIG), read_values(folder / GENERATION)
        return cls.of(config, generation, read_values(folder / EXTRACTOR))

    @classmethod
    def of(cls, config: Values, generation: Values, extractor: Values) -> "Settings":
        """Return the settings that the contents of the three files mean.

        Raises:
            IntegrityError: They lack a token that every prompt needs, or features are of a kind
                that is not computed here.
        """
        try:
            return cls._of(config, generation, extractor)
        except KeyError as error:
            msg = f"{GENERATION} or {CONFIG} has no {error}"
            raise IntegrityError(msg) from None

    @classmethod
    def _of(cls, config: Values, generation: Values, extractor: Values) -> "Settings":
        size = config.get("vocab_size") or _VOCABULARY
        several = is_multilingual(config, generation)
        languages = dict(generation.get("lang_to_id") or {}) if several else {}
        never = list(generation.get("suppress_tokens") or ())
        ends = _token(config, generation, "eos_token_id")
        previous = generation.get("prev_sot_token_id")
        if previous is None and len(never) > 1:
            previous = never[-2]  # in configs of before that key, as in transformers
        return cls(
            vocabulary=size,
            positions=config.get("max_target_positions") or POSITIONS,
            start=_token(config, generation, "decoder_start_token_id"),
            ends=tuple(ends) if isinstance(ends, list) else (ends,),
            no_timestamps=_token(config, generation, "no_timestamps_token_id"),
            previous=previous,
            max_initial=generation.get("max_initial_timestamp_index"),
            never=_within(never, size),
            not_first=_within(generation.get("begin_suppress_tokens") or (), size),
            languages={token[2:-2]: number for token, number in languages.items()},
            tasks=dict(generation.get("task_to_id") or {}) if several else {},
            language=_code(generation.get("language")) if several else None,
            task=generation.get("task") or "transcribe",
            mel=_log_mel(extractor.get("feature_extractor", extractor)),
            alignment_heads=_alignment_heads(config, generation),
        )

    @property
    def times(self) -> int:
        """The first token that stands for a time."""
        return self.no_timestamps + 1

    @property
    def no_speech(self) -> int:
        """The token <|nospeech|>, which is before <|notimestamps|> in every Whisper."""
        return self.no_timestamps - 1

    @cached_property
    def language_tokens(self) -> Tokens:
        """The tokens of all languages, int64 [languages]."""
        return np.array(list(self.languages.values()), np.int64)

    def init(self, language: int | None, task: str | None, *, timestamps: bool) -> list[int]:
        """Return the tokens that begin a window's text, as transformers begins it.

        Args:
            language: The language's token; None for an English-only checkpoint.
            task: A task's name; None for the checkpoint's own.
            timestamps: Whether timestamps follow.
        """
        tokens = [self.start]
        if language is not None:
            tokens += [language, self.tasks[task or self.task]]
        return tokens if timestamps else [*tokens, self.no_timestamps]


def is_multilingual(config: Values, generation: Values) -> bool:
    """Return whether a checkpoint's prompt has language and task.

    Old configs do not say: then it follows from their languages, or from the vocabulary's size.
    """
    declared = generation.get("is_multilingual")
    if declared is not None:
        return bool(declared)
    english = config.get("vocab_size") == _ENGLISH_VOCABULARY
    return bool(generation.get("lang_to_id")) or not english


def read_values(path: Path) -> dict[str, Any]:
    """Read a JSON object of an artifact.

    Raises:
        IntegrityError: It is missing or not readable.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path}: not readable as JSON ({error}): build the artifact again"
        raise IntegrityError(msg) from error
    if not isinstance(values, dict):
        msg = f"{path}: a JSON object is expected: build the artifact again"
        raise IntegrityError(msg)
    return values


def _token(config: Values, generation: Values, name: str) -> Any:
    """Return a token that old checkpoints have in the other file; raise KeyError for none."""
    found = (values[name] for values in (generation, config) if values.get(name) is not None)
    token = next(found, None)
    if token is None:
        raise KeyError(name)
    return token


def _within(tokens: Any, size: int) -> tuple[int, ...]:
    return tuple(token for token in tokens if 0 <= token < size)


def _code(language: str | None) -> str | None:
    """Return the code of a language that a config names by code, token or English name."""
    if language is None:
        return None
    lower = language.lower()
    return LANGUAGE_CODES.get(lower, lower.removeprefix("<|").removesuffix("|>"))


def _alignment_heads(config: Values, generation: Values) -> Heads:
    """Return those that a checkpoint names and has; without any, all of the decoder's upper half.

    Distilled checkpoints name those of their teacher. Source of the others: `set_alignment_heads`
    in openai-whisper.
    """
    layers, heads = (
        config.get(name) or usual
        for name, usual in (("decoder_layers", _LAYERS), ("decoder_attention_heads", _HEADS))
    )
    all_of_them = [(layer, head) for layer in range(layers) for head in range(heads)]
    named = {tuple(pair) for pair in generation.get("alignment_heads") or ()}
    own = [pair for pair in all_of_them if pair in named]
    return own or [pair for pair in all_of_them if pair[0] >= layers // 2]


def _log_mel(extractor: Values) -> LogMel:
    usual = {"padding_value": 0.0, "dither": 0.0, "padding_side": "right"}
    for name, value in usual.items():
        if extractor.get(name) not in (None, value):
            msg = f"{EXTRACTOR}: {name} is {extractor[name]!r:.40}, and only {value!r} is supported"
            raise IntegrityError(msg)
    return _computing(
        extractor.get("feature_size", 80),
        extractor.get("sampling_rate", 16_000),
        extractor.get("n_fft", 400),
        extractor.get("hop_length", 160),
        extractor.get("chunk_length", 30),
    )


@cache
def _computing(mels: int, rate: int, size: int, hop: int, window_s: int) -> LogMel:
    return LogMel(mels, rate=rate, size=size, hop=hop, window_s=window_s)
