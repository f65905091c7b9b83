"""Recordings of any length: from one timestamp to the next, as transformers' `generate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.transcript import Word
from exporter.runtime.whisper.engine import Engine
from exporter.runtime.whisper.features.long_log_mel import LongLogMel
from exporter.runtime.whisper.language import FoundLanguage, find_languages
from exporter.runtime.whisper.options import Lead, Options
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.streams.stream import Ask
from exporter.runtime.whisper.windows import Window, Windows
from exporter.runtime.words.hallucinations import Place, without_hallucinations
from exporter.runtime.words.timing import Aligner, last_word_s

_STEP_S, _FRAME_S = 0.02, 0.01  # of a timestamp, and of a frame, whatever the checkpoint
_FRAMES = 2  # in a step: the encoder's second convolution halves them


@dataclass(frozen=True)
class Timed:
    """A segment: times in seconds, tokens, and the window that it is from."""

    start_s: float
    end_s: float
    tokens: list[int]
    window: Window
    words: tuple[Word, ...] | None = None


@dataclass
class Recording:
    """A recording that is being decoded.

    Attributes:
        features: Features [mels, frames] of all of it.
        clips: The first frame of each clip that is left, and the frame after its last; as given,
            None means all frames.
        of: What it is a part of: parts of one recording have one language.
        seek: The first frame of the next window.
        begun: Whether a window of it was decoded.
        language: The language's token, as soon as it is known.
        found: The language of its first window, where it was not given.
        before: The tokens of the segments before, each without the second of two timestamps.
        conditioned: Whether the next window may begin with them.
        heard: The frames of its sound, without silence that was added; None: all.
        last_word_s: Where its last word so far ends, in seconds.
    """

    features: NDArray[np.float32] | LongLogMel
    clips: Sequence[tuple[int, int]] | None = None
    of: int = 0
    seek: int = 0
    begun: bool = False
    language: int | None = None
    found: FoundLanguage | None = None
    before: list[list[int]] = field(default_factory=list)
    conditioned: bool = True
    heard: int | None = None
    last_word_s: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.features, LongLogMel):
            frames = self.features.frames
        else:
            frames = int(self.features.shape[1])
        given = [(0, frames)] if self.clips is None else self.clips
        self.clips = [clip for clip in given if clip[0] < clip[1]]
        if self.clips:
            self.seek = self.clips[0][0]

    @property
    def left(self) -> int:
        """The frames that are left of the clip that is being decoded; 0 after the last one."""
        return self.clips[0][1] - self.seek if self.clips else 0

    def advance(self, frames: int) -> None:
        """Move on by so many frames, and at the end of a clip to the next."""
        self.seek, self.begun = self.seek + frames, True
        while self.clips and self.seek >= self.clips[0][1]:
            self.clips = self.clips[1:]
            self.seek = self.clips[0][0] if self.clips else self.seek

    def window(self, size: int, start: int | None = None) -> NDArray[np.float32]:
        """Return the next window [mels, size], or that from frame `start` on.

        After the end there are zeros, as in transformers.
        """
        start = self.seek if start is None else start
        stop = min(start + size, self.seek + self.left)
        if isinstance(self.features, LongLogMel):
            heard = self.features.part(start, stop)
        else:
            heard = self.features[:, start:stop]
        return np.pad(heard, ((0, 0), (0, size - heard.shape[1])))


class LongForm:
    """Decodes recordings, each window where the text of the one before ends.

    Source: `WhisperGenerationMixin.generate` of transformers: segments, seek, and the rounding of
    times are its own. Words and their times are openai-whisper's.

    Attributes:
        windows: Decodes windows by the options.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        options: Options,
        lead: Lead,
        *,
        timestamps: bool,
        aligner: Aligner | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._options = options
        self._lead = lead
        self._timestamps = timestamps
        self._aligner = aligner
        self.windows = Windows(engine, settings, options, timestamps=timestamps)

    def decode(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, list[Timed]]]:
        """Decode recordings together, and yield the segments of each window as they come.

        Yields:
            The place of a recording among `recordings`, and its next segments.
        """
        while places := [place for place, one in enumerate(recordings) if one.left]:
            active = [recordings[place] for place in places]
            yield from zip(places, self._decoded(active), strict=True)

    def _decoded(self, active: Sequence[Recording]) -> Iterator[list[Timed]]:
        """Decode the next window of each, and yield its segments."""
        asks = self.hear(active)
        windows = self._decode(active, asks)
        for recording, window, ask in zip(active, windows, asks, strict=True):
            yield self.advance(recording, window, ask)

    def hear(self, active: Sequence[Recording]) -> list[Ask]:
        """Encode the next window of each, find languages where need be, and make the prompts."""
        size = self._settings.mel.frames
        encoded = self._engine.encode(np.stack([one.window(size) for one in active]))
        self._find_languages(active, encoded)
        asks = []
        for place, one in enumerate(active):
            init = self._init(one)
            prompt = self._prompt(one, init)
            asks.append(Ask(encoded, place, prompt, len(prompt) - len(init)))
        return asks

    def _decode(self, active: Sequence[Recording], asks: Sequence[Ask]) -> list[Window]:
        """Decode windows that were encoded together."""
        encoded = asks[0].encoded
        decoded: dict[int, Window] = {}
        for rows in _of_one_length([ask.prompt for ask in asks]):
            some = encoded if len(rows) == len(active) else self._engine.select(encoded, rows)
            tokens = np.array([asks[row].prompt for row in rows])
            seeds = [active[row].seek for row in rows]
            found = self.windows.decode(some, tokens, asks[rows[0]].start, seeds)
            decoded.update(zip(rows, found, strict=True))
        return [decoded[row] for row in range(len(active))]

    def _find_languages(self, recordings: Sequence[Recording], encoded: Any) -> None:
        """Set the languages of recordings that have none yet, each by its first window."""
        settings, each = self._settings, self._options.multilingual
        if not len(settings.language_tokens):
            return
        if not each and all(one.language is not None for one in recordings):
            return
        found = find_languages(self._engine, encoded, settings.start, settings.language_tokens)
        first: dict[int, FoundLanguage] = {}
        for recording, language, chance in zip(recordings, *found, strict=True):
            heard = FoundLanguage(int(language), float(chance))
            if each:
                recording.language, recording.found = heard.token, recording.found or heard
            elif recording.language is None:
                if recording.of not in first:
                    first[recording.of] = self._likely_language(recording, heard)
                recording.found = first[recording.of]
                recording.language = recording.found.token

    def _likely_language(self, recording: Recording, heard: FoundLanguage) -> FoundLanguage:
        """Return the language of more windows, as `detect_language` of faster-whisper.

        It is that of the first window above the threshold, else that of most, with the highest of
        its probabilities.
        """
        settings, options, found = self._settings, self._options, [heard]
        size = settings.mel.frames
        frames = min(options.language_detection_segments * size, recording.left)
        for offset in range(size, frames, size):
            if found[-1].probability > options.language_detection_threshold:
                break
            encoded = self._engine.encode(recording.window(size, recording.seek + offset)[None])
            (language,), (chance,) = find_languages(
                self._engine, encoded, settings.start, settings.language_tokens
            )
            found.append(FoundLanguage(int(language), float(chance)))
        if found[-1].probability > options.language_detection_threshold:
            return found[-1]
        tokens = [one.token for one in found]
        most = max(tokens, key=tokens.count)
        return max((o for o in found if o.token == most), key=lambda one: one.probability)

    def _init(self, recording: Recording) -> list[int]:
        init = self._settings.init(
            recording.language, self._options.task, timestamps=self._timestamps
        )
        return init if recording.begun else [*init, *self._lead.prefix]

    def _prompt(self, recording: Recording, init: list[int]) -> list[int]:
        """Return a window's prompt, as transformers' `_prepare_decoder_input_ids` does."""
        lead = self._lead
        conditioned = self._options.condition_on_previous and recording.conditioned
        if not (conditioned and recording.before):
            return lead.whole + init
        before = [token for segment in recording.before for token in segment]
        return [*lead.always, *[*lead.initial, *before][1 - self._settings.positions // 2 :], *init]

    def advance(self, recording: Recording, window: Window, ask: Ask) -> list[Timed]:
        """Move a recording on after a window, by its text; return its segments."""
        frames = min(recording.left, self._settings.mel.frames)
        recording.conditioned = window.temperature < 0.5
        if window.silent:
            recording.advance(frames)
            return []
        times = self._settings.times
        segments, moved = split(window, times, recording.seek, frames)
        if self._aligner is not None:
            single = [token >= times for token in window.tokens[-2:]] == [False, True]
            segments, moved = self._timed(recording, segments, moved, ask, single=single)
        recording.advance(moved)
        for one in segments:
            doubled = len(one.tokens) > 2 and one.tokens[-2] >= times
            recording.before.append(one.tokens[:-1] if doubled else one.tokens)
        return segments

    def _timed(
        self,
        recording: Recording,
        segments: list[Timed],
        moved: int,
        ask: Ask,
        *,
        single: bool,
    ) -> tuple[list[Timed], int]:
        """Return a window's segments with their words, and by how many frames to move on.

        `single` says whether a single timestamp ends the window's text.
        """
        assert self._aligner is not None
        seek = recording.seek
        end = seek + recording.left
        heard = end if recording.heard is None else min(recording.heard, end)
        frames = max(min(heard - seek, self._settings.mel.frames), 1)
        spans = [self._aligner.span(one.start_s, one.end_s, one.tokens) for one in segments]
        self._aligner.fill(
            spans,
            ask.encoded,
            ask.place,
            recording.language,
            frames,
            seek * _FRAME_S,
            recording.last_word_s,
        )
        threshold_s = self._options.hallucination_silence_threshold
        if threshold_s is not None:
            place = Place(seek, frames, self._settings.mel.frames, heard)
            kept, moved = without_hallucinations(
                spans, threshold_s, place, moved, recording.last_word_s, single=single
            )
            spans = spans[:kept]
            if seek + moved >= heard:
                moved = recording.left
        recording.last_word_s = last_word_s(spans, recording.last_word_s)
        return [
            replace(one, start_s=span.start_s, end_s=span.end_s, words=tuple(span.words))
            for one, span in zip(segments, spans, strict=False)  # the first ones
        ], moved


def _of_one_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the rows of prompts that can be decoded together: those of each length."""
    rows: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(len(prompt), []).append(row)
    return [*rows.values()]


def split(window: Window, times: int, seek: int, frames: int) -> tuple[list[Timed], int]:
    """Cut a window's text into segments at pairs of timestamps.

    Args:
        window: The window.
        times: The first token that stands for a time.
        seek: The window's first frame in the recording.
        frames: Its frames within the recording.

    Returns:
        The segments, and by how many frames the next window is further on: text after the last
        pair is left to it, unless a single timestamp ends the text, after which nobody speaks.
    """
    tokens, offset_s = window.tokens, seek * _STEP_S / _FRAMES
    timed = [token >= times for token in tokens]
    cuts = [place for place in range(1, len(tokens)) if timed[place] and timed[place - 1]]
    if not cuts:
        end_s = offset_s + _last(tokens, times, frames) * _STEP_S
        return [Timed(offset_s, end_s, tokens, window)], frames
    single = timed[-2:] == [False, True]
    if single:
        cuts.append(len(tokens))
    else:
        cuts[-1] += 1  # with both timestamps, which shows later that it was no single one
    segments, begin = [], 0
    for cut in cuts:
        part = tokens[begin:cut]
        closing = part[-1] if single or cut != cuts[-1] else part[-2]
        start_s = offset_s + (part[0] - times) * _STEP_S
        segments.append(Timed(start_s, offset_s + (closing - times) * _STEP_S, part, window))
        begin = cut
    return segments, frames if single else (tokens[begin - 2] - times) * _FRAMES


def _last(tokens: Sequence[int], times: int, frames: int) -> int:
    """Return where a text without pairs ends, in steps: at its last timestamp, or the window's end.

    The latter is rounded as transformers rounds it: in float32.
    """
    told = [token for token in tokens if token >= times]
    if told and told[-1] != times:
        return told[-1] - times
    return int(np.float32(frames) * np.float32(_FRAME_S) / np.float32(_STEP_S))
