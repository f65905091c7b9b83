"""Decode windows, at rising temperatures while their texts fail the thresholds."""

import math
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exporter.runtime.whisper.engine import Engine, Hypotheses, Scores, Tokens
from exporter.runtime.whisper.options import Options
from exporter.runtime.whisper.search import Found, beam_search, greedy, normalised
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.streams.ranking import RankingHypotheses
from exporter.runtime.whisper.streams.stream import Ask, Stream, StreamingEngine, Told


@dataclass(frozen=True)
class Window:
    """The text of a window, and what was computed of it; None for what no option asks for.

    Attributes:
        tokens: The text's tokens, without prompt and end.
        temperature: The temperature of this text.
        avg_logprob: The log-probability of a token, on average.
        no_speech_prob: The probability of <|nospeech|> in place of the text.
        compression_ratio: See `compression_ratio`.
        failed: Whether a threshold asks for another temperature.
        silent: Whether the thresholds say that there is no speech.
    """

    tokens: list[int]
    temperature: float
    avg_logprob: float | None
    no_speech_prob: float | None
    compression_ratio: float | None
    failed: bool
    silent: bool


class Windows:
    """Decodes windows by the options."""

    def __init__(
        self, engine: Engine, settings: Settings, options: Options, *, timestamps: bool
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._options = options
        self._rules = options.rules(settings, timestamps=timestamps)

    @property
    def streams(self) -> bool:
        """Whether the engine decodes by itself what the options ask for."""
        options, engine = self._options, self._engine
        if options.num_beams > 1 or options.temperatures[0]:
            return False
        return isinstance(engine, StreamingEngine) and engine.follows(self._rules)

    def stream(self) -> Stream:
        """Return a stream of the engine, if `streams`."""
        assert isinstance(self._engine, StreamingEngine)
        silences = self._options.no_speech_threshold is not None
        no_speech = self._settings.no_speech if silences else None
        return self._engine.stream(self._rules, self._options.batch_size, no_speech)

    def follow(self, ask: Ask, told: Told, seed: int) -> Window:
        """Hold the text that a stream found against the thresholds; if it fails, decode again.

        Args:
            ask: The window.
            told: Its text, at the first temperature.
            seed: As for `decode`.
        """
        rest, found = self._options.temperatures[1:], told.found
        if not self._scored:
            found = replace(found, logprob=None)
        window = self._judged(found, 0.0, told.no_speech)
        if not (window.failed and rest):
            return window
        encoded = self._engine.select(ask.encoded, [ask.place])
        prompts = np.array([ask.prompt])
        return self.decode(encoded, prompts, ask.start, [seed], rest)[0]

    def decode(
        self,
        encoded: Any,
        prompts: Tokens,
        start: int,
        seeds: Sequence[int],
        temperatures: Sequence[float] | None = None,
    ) -> list[Window]:
        """Decode windows, and those that fail again, at the next temperature.

        Args:
            encoded: The windows, as `Engine.encode` returned them.
            prompts: Their prompts [windows, tokens].
            start: The place of <|startoftranscript|> in them.
            seeds: Of the random numbers of each, so that a text does not depend on those before.
            temperatures: The temperatures; None: those of the options.
        """
        decoded: dict[int, Window] = {}
        rows = [*range(len(prompts))]
        for temperature in temperatures or self._options.temperatures:
            some = encoded if len(rows) == len(prompts) else self._engine.select(encoded, rows)
            seeded = [seeds[row] for row in rows]
            found = self._at(temperature, some, prompts[rows], start, seeded)
            decoded.update(zip(rows, found, strict=True))
            rows = [row for row in rows if decoded[row].failed]
            if not rows:
                break
        return [decoded[row] for row in range(len(prompts))]

    def _at(
        self,
        temperature: float,
        encoded: Any,
        prompts: Tokens,
        start: int,
        seeds: Sequence[int],
    ) -> list[Window]:
        most = self._together(temperature)
        if len(prompts) > most:
            groups = [range(n, min(n + most, len(prompts))) for n in range(0, len(prompts), most)]
            return [
                window
                for rows in groups
                for window in self._at(
                    temperature,
                    self._engine.select(encoded, rows),
                    prompts[rows],
                    start,
                    [seeds[row] for row in rows],
                )
            ]
        options, silences = self._options, [None] * len(prompts)
        hypotheses = self._engine.start(encoded)
        try:
            heard, scores = _begun(hypotheses, prompts, start)
            if options.no_speech_threshold is not None:
                silences = self._no_speech(heard)
            if temperature:
                found = self._drawn(hypotheses, scores, prompts, temperature, seeds)
            else:
                found = self._searched(hypotheses, scores, prompts)
        finally:
            hypotheses.release()
        pairs = zip(found, silences, strict=True)
        return [self._judged(one, temperature, silence) for one, silence in pairs]

    def _together(self, temperature: float) -> int:
        """Return the most windows that the engine decodes at a time."""
        if not isinstance(self._engine, StreamingEngine):
            return sys.maxsize
        each = self._options.best_of if temperature else self._options.num_beams
        return max(self._engine.rows // each, 1)

    @property
    def _scored(self) -> bool:
        return self._options.logprob_threshold is not None

    def _searched(self, hypotheses: Hypotheses, scores: Scores, prompts: Tokens) -> list[Found]:
        options, scored = self._options, self._scored
        if options.num_beams == 1:
            return greedy(hypotheses, scores, prompts, self._rules, scored=scored)
        return beam_search(
            hypotheses,
            scores,
            prompts,
            self._rules,
            options.num_beams,
            patience=options.patience,
            scored=scored,
        )

    def _drawn(
        self,
        hypotheses: Hypotheses,
        scores: Scores,
        prompts: Tokens,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Found]:
        """Draw `best_of` texts of each window, and return the likeliest of each."""
        draws = self._options.best_of
        if draws > 1:
            hypotheses.expand_beams(draws)
            scores, prompts = scores.repeat(draws, 0), prompts.repeat(draws, 0)
        hundredths = round(100 * temperature)
        found = greedy(
            hypotheses,
            scores,
            prompts,
            self._rules,
            temperature=temperature,
            samplers=[
                np.random.default_rng([seed, hundredths, *([draw] if draw else [])])
                for seed in seeds
                for draw in range(draws)
            ],
            scored=draws > 1 or self._scored,
        )
        groups = (found[start : start + draws] for start in range(0, len(found), draws))
        return [max(group, key=self._likelihood) for group in groups]

    def _likelihood(self, found: Found) -> float:
        return normalised(found.logprob or 0.0, len(found.tokens), self._rules)

    def _no_speech(self, logits: Scores) -> list[Any]:
        """Return the probability of <|nospeech|>, as `WhisperNoSpeechDetection` of transformers."""
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        silent = chances[:, self._settings.no_speech] / chances.sum(-1)
        return list(silent.tolist())

    def _judged(self, found: Found, temperature: float, silence: float | None) -> Window:
        """Hold a text against the thresholds, as transformers' `_need_fallback` does."""
        options, ratio = self._options, None
        repeats = unsure = silent = False
        if options.compression_ratio_threshold is not None:
            ending = [self._rules.end] if found.ended else []
            ratio = compression_ratio([*found.tokens, *ending], self._settings.vocabulary)
            repeats = ratio > options.compression_ratio_threshold
        sure = found.avg_logprob
        if options.logprob_threshold is not None and sure is not None:
            unsure = sure < options.logprob_threshold
        if options.no_speech_threshold is not None and silence is not None:
            sure_enough = options.logprob_threshold is not None and not unsure
            silent = silence > options.no_speech_threshold and not sure_enough
        failed = (repeats or unsure) and not silent
        return Window(found.tokens, temperature, sure, silence, ratio, failed, silent)


def _begun(hypotheses: Hypotheses, prompts: Tokens, start: int) -> tuple[Scores, Scores]:
    """Return the logits after the token at `start` of the prompts, and after the last one."""
    if isinstance(hypotheses, RankingHypotheses):
        return hypotheses.begin(prompts, start)
    logits = hypotheses.step(prompts)
    return logits[:, start], logits[:, -1]


def compression_ratio(tokens: Sequence[int], vocabulary: int) -> float:
    """Return how much smaller zlib makes a text: more than 2.4, and it repeats itself.

    Like transformers, and unlike openai-whisper, it is of the tokens' bytes, not of the text's.

    Args:
        tokens: The text, its end included.
        vocabulary: The number of tokens of the model.
    """
    size = int(math.log2(vocabulary) / 8) + 1
    raw = b"".join(token.to_bytes(size, "little") for token in tokens)
    return len(raw) / len(zlib.compress(raw))
