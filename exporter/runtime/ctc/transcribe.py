"""Transcribe recordings by the likeliest token of each frame.

Recordings and chunks run one by one, whatever the batch size: a graph has no mask, and statistics
over all frames, in the group norm and in the rounding of activations, would mix recordings.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporter.formats.audio import LongAudio
from exporter.runtime.ctc.chunks import chunks, cut_of
from exporter.runtime.ctc.text import Alphabet
from exporter.runtime.ctc.words import words_of
from exporter.runtime.transcript import Audio, Segment, Sound, Transcript

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
        for chunk in chunks(_blocks(sound), cut_of(chunk_s, stride_s, self.rate, self.ratio)):
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


def _blocks(sound: Sound) -> Iterator[Audio]:
    return iter(sound) if isinstance(sound, LongAudio) else iter([sound])
