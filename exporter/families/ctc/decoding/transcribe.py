"""Transcribe recordings by the original and by what is built of it, through the same decoding."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from exporter.families.ctc.engine import logits_of
from exporter.families.ctc.kinds import first_frame, input_of
from exporter.recipe import Decoding
from exporter.runtime.ctc.transcribe import Logits, Reader
from exporter.runtime.transcript import Audio, Sound, Transcript


def transcribe(
    model: Any, processor: Any, audio: Sequence[Sound], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order."""
    extractor, ratio = processor.feature_extractor, input_of(model.config).ratio(model.config)
    heard = partial(_logits, model, extractor)
    reader = Reader(heard, processor.alphabet, extractor.sampling_rate, ratio)
    chunk_s, stride_s = decoding.chunk_length_s, decoding.stride_length_s
    words = decoding.word_timestamps
    with torch.inference_mode():
        return [reader.transcribe(sound, chunk_s, stride_s, words=words) for sound in audio]


def features_of(model: Any, extractor: Any, samples: Audio) -> Tensor:
    """Return the input [1, ...]; that of an original is computed by transformers."""
    source = input_of(model.config)
    compute = source.features if hasattr(model, "engine") else source.original_features
    return compute(extractor, samples, first_frame(model.config)).to(model.device)


def _logits(model: Any, extractor: Any, samples: Audio) -> Logits:
    logits: Logits = logits_of(model, features_of(model, extractor, samples))[0].cpu().numpy()
    return logits
