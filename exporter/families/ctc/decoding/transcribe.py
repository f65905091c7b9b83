"""Transcribe recordings, for the original and for every artifact.

Recordings and chunks run one by one, whatever the batch size: a graph has no mask, and statistics
over all frames, in the group norm and in the rounding of activations, would mix recordings.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.families.ctc.decoding.chunks import chunks, cut_of
from exporter.families.ctc.decoding.text import alphabet_of
from exporter.families.ctc.engine import logits_of
from exporter.families.ctc.kinds import first_frame, input_of
from exporter.formats.audio import LongAudio
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Segment, Sound, Transcript


def transcribe(
    model: Any, processor: Any, audio: Sequence[Sound], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order."""
    return [_transcribed(model, processor, sound, decoding) for sound in audio]


def _transcribed(model: Any, processor: Any, sound: Sound, decoding: Decoding) -> Transcript:
    extractor = processor.feature_extractor
    ratio, rate = input_of(model.config).ratio(model.config), extractor.sampling_rate
    frames: list[int] = []
    samples = 0
    with torch.inference_mode():
        for chunk in chunks(_blocks(sound), cut_of(decoding, rate, ratio)):
            logits = logits_of(model, features_of(model, extractor, chunk.samples))
            best = logits[0].argmax(-1)
            cut = chunk.left or chunk.right
            frames += (best[chunk.own_frames(ratio)] if cut else best).tolist()
            samples += len(chunk.samples) - chunk.left - chunk.right
    return _transcript(processor, frames, samples / rate)


def features_of(model: Any, extractor: Any, samples: Audio) -> Tensor:
    """Return the input [1, ...]; that of an original is computed by transformers."""
    source = input_of(model.config)
    compute = source.features if hasattr(model, "engine") else source.original_features
    return compute(extractor, samples, first_frame(model.config)).to(model.device)


def _blocks(sound: Sound) -> Iterator[Audio]:
    return iter(sound) if isinstance(sound, LongAudio) else iter([sound])


def _transcript(processor: Any, frames: Sequence[int], seconds: float) -> Transcript:
    """Return the transcript of the likeliest token of each frame, with one segment."""
    alphabet = alphabet_of(processor.tokenizer)
    tokens = alphabet.tokens(frames)
    text = alphabet.text(tokens)
    return Transcript(text, tokens, (Segment(0.0, seconds, text),))
