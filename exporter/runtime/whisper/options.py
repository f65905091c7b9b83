"""The options of decoding, held against a checkpoint, and the text before a window."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from exporter.errors import CheckpointError, RecipeError
from exporter.runtime.vad.spans import SpeechRules
from exporter.runtime.whisper.language import LANGUAGE_CODES
from exporter.runtime.whisper.rules import Rules, TimeRules
from exporter.runtime.whisper.settings import GENERATION, POSITIONS, Settings, is_multilingual
from exporter.runtime.whisper.text import Text

Values = Mapping[str, Any]

_LISTS = ("temperatures", "clip_timestamps")
_CHUNKS_SILENCE_S = 0.16  # that ends a span of speech, for chunks

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How windows and recordings are decoded; names and defaults are those of recipes.

    Attributes:
        language: A language's code; None: the checkpoint's own, else it is found in the first
            window.
        task: "transcribe" or "translate"; None: the checkpoint's own.
        multilingual: Find the language of every window, not only of the first.
        language_detection_segments: The most windows, from the first on, that are listened to
            until one has a language above `language_detection_threshold`; if none has, it is the
            language of most. Source: faster-whisper.
        language_detection_threshold: A probability.
        num_beams: Hypotheses of a beam search; 1 is greedy.
        patience: End the beam search of a window after `num_beams * patience` hypotheses have
            ended, as openai-whisper does; None: when none that runs can become better, as
            transformers does.
        best_of: The texts drawn at a temperature above 0, of which the likeliest is taken.
            Source: openai-whisper.
        length_penalty: The exponent of the length, by which beams' scores are divided.
        repetition_penalty: See `Rules`.
        no_repeat_ngram_size: See `Rules`.
        max_new_tokens: The most tokens of a window; None: all that fit.
        timestamps: Segments with times; recordings longer than a window always have them.
        batch_size: Windows that are decoded together: of as many recordings, or chunks.
        temperatures: Tried one after another until a window's text passes the thresholds; with 0
            it is searched for, else drawn. Source: `decode_with_fallback` of openai-whisper.
        compression_ratio_threshold: A window fails above it; see `windows.compression_ratio`.
        logprob_threshold: A window fails below this average log-probability of a token.
        no_speech_threshold: A window that fails `logprob_threshold` is silence, and has no text,
            if the probability of <|nospeech|> is above; without `logprob_threshold`, every such
            window, as in openai-whisper.
        condition_on_previous: Begin windows with the text before, unless that was drawn at a
            temperature of 0.5 or more. Source: `condition_on_prev_tokens` of transformers.
        initial_prompt: Text before the first window, and before each if they are not conditioned
            on the text before. Source: `prompt_ids` of transformers, by "first-segment";
            openai-whisper and faster-whisper give it to the first window only in that case.
        hotwords: Text before every window, before all other. Source: `hotwords` of
            faster-whisper, and `prompt_ids` of transformers, by "all-segments".
        prefix: Words that the first window's text follows; they are not part of it. Source:
            openai-whisper, and faster-whisper for the first window alone.
        long_form: How long recordings are decoded. "sequential": each window begins where the
            text of the one before ends. "chunked": each chunk of speech, at most a window long, is
            decoded like a recording of its own; without timestamps it is one segment. Source:
            `BatchedInferencePipeline` of faster-whisper, which tries one temperature only, and with
            timestamps loses the text after the last pair of them.
        vad: Hear only what Silero's detector finds to be speech. Sequentially, spans are joined,
            and times are then those in the recording. Source: `vad_filter` of faster-whisper.
        vad_threshold: See `SpeechRules.threshold`.
        vad_min_speech_s: See `SpeechRules.min_speech_s`.
        vad_min_silence_s: See `SpeechRules.min_silence_s`; None: 2 seconds, and 0.16 for chunks, as
            in faster-whisper.
        vad_speech_pad_s: See `SpeechRules.speech_pad_s`.
        clip_timestamps: Start and end in seconds of each clip to decode, the last end optional. No
            window reaches beyond a clip's end. Source: `clip_timestamps` of openai-whisper.
        word_timestamps: Segments with their words and the times of these. Source: the option of
            that name of openai-whisper, but for the next window, which begins where it would
            without.
        hallucination_silence_threshold: With `word_timestamps`, seconds of silence around unlikely
            segments, above which these are dropped. Source: the option of that name of
            openai-whisper, by which windows begin where the last word ends.
        max_length: The most tokens of a window, the prompt included; for measurements.
        exact_tokens: Exactly so many tokens of a window, none a timestamp; for measurements.
    """

    language: str | None = None
    task: str | None = None
    multilingual: bool = False
    language_detection_segments: int = 1
    language_detection_threshold: float = 0.5
    num_beams: int = 1
    patience: float | None = None
    best_of: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int | None = None
    timestamps: bool = False
    batch_size: int = 1
    temperatures: tuple[float, ...] = (0.0,)
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None
    condition_on_previous: bool = False
    initial_prompt: str | None = None
    hotwords: str | None = None
    prefix: str | None = None
    long_form: str = "sequential"
    vad: bool = False
    vad_threshold: float = 0.5
    vad_min_speech_s: float = 0.0
    vad_min_silence_s: float | None = None
    vad_speech_pad_s: float = 0.4
    clip_timestamps: tuple[float, ...] | None = None
    word_timestamps: bool = False
    hallucination_silence_threshold: float | None = None
    max_length: int | None = None
    exact_tokens: int | None = None

    @classmethod
    def of(cls, decoding: Mapping[str, Any]) -> "Options":
        """Return the options of a recipe's `decoding`, without those of other families."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in decoding.items() if name in known}
        lists = {name: tuple(given[name]) for name in _LISTS if given.get(name) is not None}
        return cls(**{**given, **lists})

    @property
    def together(self) -> bool:
        """Whether `generate` can decode several: they get one pass, and equal prompts."""
        return len(self.temperatures) == 1 and not self.condition_on_previous

    @property
    def beyond_generate(self) -> bool:
        """Whether an option is set that `generate` of transformers lacks, or draws otherwise.

        Draws of the same random numbers differ only where the models do, so texts of original and
        artifact can be compared.
        """
        prompts = self.hotwords and self.initial_prompt and self.condition_on_previous
        unsure = self.no_speech_threshold is not None and self.logprob_threshold is None
        draws = any(self.temperatures)
        listens = self.multilingual or self.language_detection_segments > 1
        clips = self.clip_timestamps is not None and not self.chunked
        given = self.patience or self.prefix or self.word_timestamps
        return bool(prompts or unsure or draws or listens or clips or given)

    @property
    def chunked(self) -> bool:
        """Whether chunks are decoded like recordings of their own."""
        return self.long_form == "chunked"

    @property
    def clips(self) -> list[tuple[float, float]] | None:
        """Start and end of each clip in seconds, the last end perhaps infinite."""
        if self.clip_timestamps is None:
            return None
        times = [*self.clip_timestamps, math.inf]
        return [*zip(times[:-1:2], times[1::2], strict=True)]

    def speech_rules(self, window_s: float) -> SpeechRules:
        """Return when speech begins and ends, for a window of so many seconds."""
        if self.chunked:
            return SpeechRules.of(vars(self), window_s, _CHUNKS_SILENCE_S)
        return SpeechRules.of(vars(self))

    def rules(self, settings: Settings, *, timestamps: bool) -> Rules:
        """Return the rules for decoding a window of a checkpoint."""
        longest = settings.positions if self.max_length is None else self.max_length
        exact, never = self.exact_tokens, settings.never
        if exact is not None:
            never = (*never, *range(settings.times, settings.vocabulary))
        times = TimeRules(settings.times, settings.ends[0], settings.max_initial)
        return Rules(
            ends=settings.ends,
            never=never,
            not_first=settings.not_first,
            max_length=longest,
            min_new=exact or 0,
            max_new=self.max_new_tokens if exact is None else exact,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            times=times if timestamps else None,
        )


@dataclass(frozen=True)
class Lead:
    """The tokens that options put before windows.

    Attributes:
        always: Those of every window that has any: <|startofprev|>, and hot words.
        initial: Those of the initial prompt.
        prefix: Those after the tokens that begin the first window's text.
    """

    always: tuple[int, ...] = ()
    initial: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()

    @property
    def whole(self) -> list[int]:
        """The tokens before a window that follows no other; empty without prompts."""
        given = len(self.always) > 1 or self.initial
        return [*self.always, *self.initial] if given else []


def lead_of(options: Options, settings: Settings, text: Text) -> Lead:
    """Return the tokens of the prompts.

    Raises:
        RecipeError: They have too many tokens, or the checkpoint has none for text before.
    """
    prefix = _encoded(text, options.prefix)
    if len(prefix) > (most := settings.positions // 4):
        msg = f"prefix has {len(prefix)} tokens: at most {most}"
        raise RecipeError(msg)
    if not (options.initial_prompt or options.hotwords or options.condition_on_previous):
        return Lead(prefix=prefix)
    if settings.previous is None:
        msg = "this checkpoint has no token <|startofprev|>: give it no prompt and no text before"
        raise RecipeError(msg)
    hot, initial = _encoded(text, options.hotwords), _encoded(text, options.initial_prompt)
    most = settings.positions // 2 - 1
    if options.hotwords and options.condition_on_previous:
        most //= 2  # the text before gets its half of the positions as well
    if len(hot) + len(initial) > most:
        msg = f"initial_prompt and hotwords have {len(hot) + len(initial)} tokens: at most {most}"
        raise RecipeError(msg)
    return Lead((settings.previous, *hot), initial, prefix)


def _encoded(text: Text, words: str | None) -> tuple[int, ...]:
    return tuple(text.encode(f" {words.strip()}")) if words else ()


def check_options(config: Values, generation: Values, options: Options) -> None:
    """Check that a checkpoint supports the options, else its text would be wrong.

    Args:
        config: The content of `config.json`.
        generation: The content of `generation_config.json`.
        options: The options.

    Raises:
        RecipeError: The checkpoint lacks the language or the task, or decodes fewer tokens, or
            options do not go together.
        CheckpointError: The generation config lacks values that the prompt needs.
    """
    if is_multilingual(config, generation):
        _check_prompt(generation, options)
    else:
        require_keys(generation, "no_timestamps_token_id")
        names = ("language", "task", "multilingual")
        extra = [name for name in names if getattr(options, name)]
        if extra:
            msg = f"an English-only checkpoint takes no {' or '.join(extra)}: leave it out"
            raise RecipeError(msg)
    most = most_new_tokens(config, generation, options)
    if options.max_new_tokens is not None and options.max_new_tokens > most:
        msg = f"max_new_tokens {options.max_new_tokens}: this checkpoint decodes at most {most}"
        raise RecipeError(msg)
    _check_together(options)
    _check_long_form(options)
    layers = config.get("decoder_layers", 0), config.get("encoder_layers", 0)
    if options.task == "translate" and layers[0] < layers[1]:
        # A warning only: no config says it for certain, and some of these checkpoints do translate.
        _log.warning(
            "its decoder has fewer layers than its encoder: distilled checkpoints like "
            "large-v3-turbo and distil-whisper were not trained to translate"
        )


def prompt_tokens(config: Values, generation: Values) -> int:
    """Return the tokens that begin a text: start, language, task, no timestamps."""
    return 4 if is_multilingual(config, generation) else 2


def most_new_tokens(config: Values, generation: Values, options: Options) -> int:
    """Return the most tokens that a window's text may have after its prompt."""
    positions: int = config.get("max_target_positions") or POSITIONS
    most = positions - prompt_tokens(config, generation)
    if options.prefix:
        most -= positions // 4
    half, hot = positions // 2, options.hotwords is not None
    if hot and options.condition_on_previous:
        return most - half - (half - 1) // 2
    return most - half if hot or options.condition_on_previous or options.initial_prompt else most


def _check_together(options: Options) -> None:
    """Refuse options of which one would have no effect."""
    if options.multilingual and options.language is not None:
        msg = "multilingual finds the language of every window: leave language out"
        raise RecipeError(msg)
    if options.patience is not None and options.num_beams == 1:
        msg = "patience is for a beam search: give num_beams above 1 too"
        raise RecipeError(msg)
    if options.hallucination_silence_threshold is not None and not options.word_timestamps:
        msg = "hallucination_silence_threshold needs word_timestamps: true: it looks at words"
        raise RecipeError(msg)
    if options.best_of > 1 and not any(options.temperatures):
        msg = "best_of is for drawn texts: give temperatures above 0 too"
        raise RecipeError(msg)


def _check_long_form(options: Options) -> None:
    """Refuse clips that are out of order, and what chunks or clips go without."""
    times = options.clip_timestamps
    if times is not None:
        if any(after <= before for before, after in pairwise(times)):
            msg = f"clip_timestamps {[*times]}: start and end of each clip, in the order of time"
            raise RecipeError(msg)
        if options.vad:
            msg = "clip_timestamps and vad: give one of them"
            raise RecipeError(msg)
    if not options.chunked:
        return
    if not options.vad and times is None:
        msg = "long_form: chunked cuts at silence: add vad: true (or clip_timestamps)"
        raise RecipeError(msg)
    if options.condition_on_previous:
        msg = "long_form: chunked has no text before: leave out condition_on_previous"
        raise RecipeError(msg)


def _check_prompt(generation: Values, options: Options) -> None:
    """Check language and task, the options' or the checkpoint's own."""
    require_keys(generation, "no_timestamps_token_id", "lang_to_id", "task_to_id")
    known = [token[2:-2] for token in generation["lang_to_id"]]
    if options.language is not None and options.language not in known:
        raise unknown_language(options.language, known)
    tasks = generation["task_to_id"]
    if options.task is not None and options.task not in tasks:
        msg = f"the checkpoint has no task {options.task!r}: {', '.join(tasks)}"
        raise RecipeError(msg)
    language, task = (generation.get(key) for key in ("language", "task"))
    if options.language is None and not _is_language(language, known):
        msg = f"{GENERATION}: its language {language!r:.40} is none that it lists in lang_to_id"
        raise CheckpointError(msg)
    if options.task is None and task is not None and task not in tasks:
        msg = f"{GENERATION}: its task {task!r:.40} is none that it lists in task_to_id"
        raise CheckpointError(msg)


def _is_language(name: Any, known: list[str]) -> bool:
    """Return whether a config's language is found among the codes `known`."""
    if not isinstance(name, str):
        return name is None
    lower = name.lower()
    return lower.removeprefix("<|").removesuffix("|>") in known or (
        LANGUAGE_CODES.get(lower) in known
    )


def require_keys(generation: Values, *keys: str) -> None:
    """Refuse a generation config of an old transformers, which lacks parts of the prompt."""
    missing = [key for key in keys if generation.get(key) in (None, {})]
    if missing:
        msg = (
            f"its generation_config.json has no {', '.join(missing)}.\n"
            "Take the one of the model that this checkpoint was trained from, as it is today."
        )
        raise CheckpointError(msg)


def unknown_language(language: str, known: list[str]) -> RecipeError:
    """Return the error about a language that is not among the codes `known`."""
    spoken = language.lower()
    code = LANGUAGE_CODES.get(spoken, re.split(r"\W|_", spoken.strip("<|>"))[0])
    if code in known:
        return RecipeError(f"the checkpoint has no language {language!r}: did you mean {code!r}?")
    shown = ", ".join(sorted(known)[:12]) + (" ..." if len(known) > 12 else "")
    return RecipeError(f"the checkpoint has no language {language!r}: {shown}")
