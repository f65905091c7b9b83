"""Transcribe recordings by the likeliest token of each frame.

Recordings and chunks run one by one, whatever the batch size: a graph has no mask, and statistics
over all frames, in the group norm and in the rounding of activations, would mix recordings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.formats.audio import blocks, excerpts
from exporter.runtime.ctc.chunks import chunks, cut_of
from exporter.runtime.ctc.text import Alphabet
from exporter.runtime.ctc.words import words_of
from exporter.runtime.transcript import Audio, Segment, Sound, Transcript
from exporter.runtime.vad.spans import SpeechRules, find_speech

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Reader:
    """A model that hears one recording or chunk at a time.

    Attributes:
        logits: Returns the logits [frames, vocabulary] of samples float32 [samples].
        alphabet: What frames are spelled with.
        rate: The sampling rate in Hz.
        ratio: Samples between the beginnings of two frames.
    """

    logits: Callable[[Audio], Logits]
    alphabet: Alphabet
    rate: int
    ratio: int

    def decode(self, sound: Sound, decoding: Mapping[str, Any]) -> Transcript:
        """Transcribe a recording by a recipe's options.

        With `vad`, each span of speech is transcribed like a recording of its own, and is a
        segment; one longer than a chunk is cut at a pause.

        Args:
            sound: Mono samples at `rate`.
            decoding: Every option.

        Raises:
            RecipeError: The detector of speech does not take the rate.
            DataError: A long file cannot be read to its end.
        """
        chunk_s, stride_s = decoding["chunk_length_s"], decoding["stride_length_s"]
        words = decoding["word_timestamps"]
        if not decoding["vad"]:
            return self.transcribe(sound, chunk_s, stride_s, words=words)
        spans = find_speech(sound, self.rate, SpeechRules.of(decoding, chunk_s))
        heard = excerpts(sound, [[span] for span in spans])
        found = [self.transcribe(samples, chunk_s, stride_s, words=words) for samples in heard]
        segments = tuple(
            segment.after(start / self.rate)
            for (start, _), one in zip(spans, found, strict=True)
            for segment in one.segments
        )
        text = " ".join(one.text for one in found if one.text)
        return Transcript(text, tuple(token for one in found for token in one.tokens), segments)

    def transcribe(
        self, sound: Sound, chunk_s: float, stride_s: float | None, *, words: bool = False
    ) -> Transcript:
        """Transcribe a recording, which gets one segment.

        Args:
            sound: Mono samples at `rate`.
            chunk_s: Seconds of the chunks of a longer recording.
            stride_s: Seconds that they overlap by on each side; None: a sixth of a chunk.
            words: Whether the segment gets its words and their times.
        """
        frames: list[int] = []
        chances: list[float] = []
        samples = 0
        for chunk in chunks(blocks(sound), cut_of(chunk_s, stride_s, self.rate, self.ratio)):
            logits = self.logits(chunk.samples)
            cut = chunk.left or chunk.right
            own = chunk.own_frames(self.ratio) if cut else slice(None)
            frames += logits[own].argmax(-1).tolist()
            if words:
                chances += _chances(logits[own]).tolist()
            samples += len(chunk.samples) - chunk.left - chunk.right
        tokens = self.alphabet.tokens(frames)
        text = self.alphabet.text(tokens)
        segment = Segment(0.0, samples / self.rate, text)
        if words:
            found = words_of(self.alphabet, frames, chances, self.ratio / self.rate)
            segment = replace(segment, words=found).until(segment.end_s)
        return Transcript(text, tokens, (segment,))


def _chances(logits: Logits) -> NDArray[np.float32]:
    """Return the probability of each frame's likeliest token."""
    sums = np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    chances: NDArray[np.float32] = np.reciprocal(sums, dtype=np.float32)
    return chances
