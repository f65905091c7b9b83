"""Spans of speech from probabilities, what is decoded of them, and their times in the recording.

Source: `get_speech_timestamps`, `collect_chunks` and `SpeechTimestampsMap` of faster-whisper 1.2.1,
the first adapted from Silero's own.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from exporter.errors import RecipeError
from exporter.formats.audio import blocks
from exporter.formats.audio.spans import Span
from exporter.runtime.transcript import Audio, Sound
from exporter.runtime.vad.silero import FRAME, RATE, detector

_SHORT_PAUSE_S = 0.098  # of silence, at which a span that is too long may be cut
_CLOSING = 0.15  # speech ends at a probability so much below that at which it begins
_LEAST = 0.01  # but above 0
_ROOM_S = 1.0  # for speech in the longest span


@dataclass(frozen=True)
class SpeechRules:
    """When speech begins and ends; the defaults are those of faster-whisper's `VadOptions`.

    Attributes:
        threshold: The probability from which a frame is speech. Speech ends with frames that are
            0.15 below it, or below 0.01.
        min_speech_s: Shorter spans are dropped.
        max_speech_s: Longer spans are cut, at their last pause of 0.1 s or more if there is one.
        min_silence_s: Shorter silence does not end a span.
        speech_pad_s: What is added to a span on each side, at most half of the silence there.
    """

    threshold: float = 0.5
    min_speech_s: float = 0.0
    max_speech_s: float = math.inf
    min_silence_s: float = 2.0
    speech_pad_s: float = 0.4

    @classmethod
    def of(
        cls,
        decoding: Mapping[str, Any],
        max_speech_s: float = math.inf,
        min_silence_s: float = min_silence_s,
    ) -> "SpeechRules":
        """Return the rules by a recipe's `decoding`.

        Args:
            decoding: The options.
            max_speech_s: The longest span that can be decoded.
            min_silence_s: That of a recipe that does not say.

        Raises:
            RecipeError: Padding leaves no room for speech in such a span.
        """
        given_s, pad_s = decoding["vad_min_silence_s"], decoding["vad_speech_pad_s"]
        if 2 * pad_s + _ROOM_S > max_speech_s:
            msg = (
                f"vad_speech_pad_s {pad_s:g}: speech is cut into at most {max_speech_s:g} s, with "
                "less than a second between the padding"
            )
            raise RecipeError(msg)
        return cls(
            threshold=decoding["vad_threshold"],
            min_speech_s=decoding["vad_min_speech_s"],
            max_speech_s=max_speech_s,
            min_silence_s=min_silence_s if given_s is None else given_s,
            speech_pad_s=pad_s,
        )


def find_speech(sound: Sound, rate: int, rules: SpeechRules) -> list[Span]:
    """Return the spans of a recording in which somebody speaks, in order.

    Args:
        sound: The recording; a long file is read once, in blocks.
        rate: Its sampling rate in Hz.
        rules: When speech begins and ends.

    Raises:
        RecipeError: The detector does not take the rate.
        DataError: A long file cannot be read to its end.
    """
    if rate != RATE:
        msg = f"vad hears {RATE:,} samples a second, and this model {rate:,}: leave it out"
        raise RecipeError(msg)
    samples = 0

    def counted() -> Iterator[Audio]:
        nonlocal samples
        for block in blocks(sound):
            samples += len(block)
            yield block

    probabilities = detector()(counted()).tolist()
    return speech_spans(probabilities, samples, rules)


def speech_spans(probabilities: Sequence[float], samples: int, rules: SpeechRules) -> list[Span]:
    """Return the spans of speech by the probability of each frame of a recording of `samples`."""
    found = _Spans(rules)
    for index, probability in enumerate(probabilities):
        found.hear(index * FRAME, probability)
    found.finish(samples)
    return _padded(found.spans, samples, rules.speech_pad_s * RATE)


def merged(spans: Sequence[Span], most: int) -> list[list[Span]]:
    """Merge consecutive spans into chunks of at most `most` samples together; none is cut."""
    chunks: list[list[Span]] = []
    length = 0
    for start, stop in spans:
        if not chunks or length + stop - start > most:
            chunks.append([])
            length = 0
        chunks[-1].append((start, stop))
        length += stop - start
    return chunks


class Timeline:
    """Where the times of joined spans are in the recording."""

    def __init__(self, spans: Sequence[Span], rate: int) -> None:
        lengths = [stop - start for start, stop in spans]
        self._ends = [*accumulate(lengths)]
        self._before = [
            start - (end - length)
            for (start, _), end, length in zip(spans, self._ends, lengths, strict=True)
        ]
        self._rate = rate

    def start_s(self, seconds: float) -> float:
        """Return where something begins that begins at `seconds` of the joined spans."""
        return self._original_s(seconds, bisect_right(self._ends, self._sample(seconds)))

    def end_s(self, seconds: float) -> float:
        """Return where something ends: at a cut, at the end of the span before it."""
        return self._original_s(seconds, bisect_left(self._ends, self._sample(seconds)))

    def _sample(self, seconds: float) -> int:
        return round(seconds * self._rate)

    def _original_s(self, seconds: float, span: int) -> float:
        """Return a time in the recording; after the last span, it is at its end."""
        span = min(span, len(self._ends) - 1)
        inside = min(seconds, self._ends[span] / self._rate)
        return inside + self._before[span] / self._rate


class _Spans:
    """Spans without their padding, found frame by frame."""

    def __init__(self, rules: SpeechRules) -> None:
        self.spans: list[Span] = []
        self._opens = rules.threshold
        self._closes = max(rules.threshold - _CLOSING, _LEAST)
        self._least = rules.min_speech_s * RATE
        self._most = RATE * rules.max_speech_s - FRAME - 2 * RATE * rules.speech_pad_s
        self._silence = rules.min_silence_s * RATE
        self._start: int | None = None  # of the speech that goes on
        self._forget()

    def _forget(self) -> None:
        self._quiet = 0  # since when it is silent; 0: it is not
        self._pause = self._resumed = 0  # the last pause, and the speech after it

    def hear(self, at: int, probability: float) -> None:
        """Take in the next frame, which begins at the sample `at`."""
        if probability >= self._opens:
            if self._quiet:
                self._quiet = 0
                if self._resumed < self._pause:
                    self._resumed = at
            if self._start is None:
                self._start = at
                return
        if self._start is not None and at - self._start > self._most:
            self._cut(self._start, at)
        if self._start is not None and probability < self._closes:
            self._fall_silent(self._start, at)

    def finish(self, samples: int) -> None:
        """Take in the recording's end."""
        if self._start is not None and samples - self._start > self._least:
            self.spans.append((self._start, samples))

    def _cut(self, start: int, at: int) -> None:
        """End a span that is too long, at its last pause if there is one."""
        self.spans.append((start, self._pause or at))
        self._start = self._resumed if 0 < self._pause <= self._resumed else None
        self._forget()

    def _fall_silent(self, start: int, at: int) -> None:
        self._quiet = self._quiet or at
        if at - self._quiet > _SHORT_PAUSE_S * RATE:
            self._pause = self._quiet
        if at - self._quiet < self._silence:
            return
        if self._quiet - start > self._least:
            self.spans.append((start, self._quiet))
        self._start = None
        self._forget()


def _padded(spans: Sequence[Span], samples: int, pad: float) -> list[Span]:
    """Extend spans on both sides; two that would meet share the silence between them."""
    if not spans:
        return []
    starts, stops = (list(side) for side in zip(*spans, strict=True))
    starts[0] = int(max(0, starts[0] - pad))
    stops[-1] = int(min(samples, stops[-1] + pad))
    for index in range(len(spans) - 1):
        silence = starts[index + 1] - stops[index]
        half = silence // 2 if silence < 2 * pad else pad
        stops[index] = int(min(samples, stops[index] + half))
        starts[index + 1] = int(max(0, starts[index + 1] - half))
    return [*zip(starts, stops, strict=True)]
