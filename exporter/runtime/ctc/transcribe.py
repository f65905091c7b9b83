"""Transcribe recordings by the likeliest token of each frame.

Recordings and chunks run one by one, whatever the batch size: a graph has no mask, and statistics
over all frames, in the group norm and in the rounding of activations, would mix recordings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.formats.audio import blocks, excerpts
from exporter.runtime.ctc.chunks import chunks, cut_of
from exporter.runtime.ctc.text import Alphabet
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
        if not decoding["vad"]:
            return self.transcribe(sound, chunk_s, stride_s)
        spans = find_speech(sound, self.rate, SpeechRules.of(decoding, chunk_s))
        heard = excerpts(sound, [[span] for span in spans])
        found = [self.transcribe(samples, chunk_s, stride_s) for samples in heard]
        segments = tuple(
            Segment(start / self.rate, stop / self.rate, one.text)
            for (start, stop), one in zip(spans, found, strict=True)
        )
        text = " ".join(one.text for one in found if one.text)
        return Transcript(text, tuple(token for one in found for token in one.tokens), segments)

    def transcribe(self, sound: Sound, chunk_s: float, stride_s: float | None) -> Transcript:
        """Transcribe a recording, which gets one segment.

        Args:
            sound: Mono samples at `rate`.
            chunk_s: Seconds of the chunks of a longer recording.
            stride_s: Seconds that they overlap by on each side; None: a sixth of a chunk.
        """
        frames: list[int] = []
        samples = 0
        for chunk in chunks(blocks(sound), cut_of(chunk_s, stride_s, self.rate, self.ratio)):
            best = self.logits(chunk.samples).argmax(-1)
            cut = chunk.left or chunk.right
            frames += (best[chunk.own_frames(self.ratio)] if cut else best).tolist()
            samples += len(chunk.samples) - chunk.left - chunk.right
        tokens = self.alphabet.tokens(frames)
        text = self.alphabet.text(tokens)
        return Transcript(text, tokens, (Segment(0.0, samples / self.rate, text),))
