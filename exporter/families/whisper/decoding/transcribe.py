"""Transcribe audio, for the original and for every artifact."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from exporter.families.transcript import Audio, Segment, Transcript
from exporter.families.whisper.decoding import loop
from exporter.families.whisper.decoding.log_mel import log_mel
from exporter.families.whisper.decoding.settings import settings_of, with_settings
from exporter.recipe import Decoding


def transcribe(
    model: Any, processor: Any, audio: Sequence[Audio], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order.

    `model` is a `WhisperForConditionalGeneration`, `processor` its `WhisperProcessor`; transformers
    does not type the parts of both.

    Recordings within the window are decoded `decoding.batch_size` at a time; longer ones one by
    one, with timestamps, because `generate` moves its window from one timestamp to the next.
    """
    window = processor.feature_extractor.n_samples
    short = [index for index, samples in enumerate(audio) if len(samples) <= window]
    size = decoding.batch_size
    groups = [short[start : start + size] for start in range(0, len(short), size)]
    groups += [[index] for index, samples in enumerate(audio) if len(samples) > window]
    transcripts: dict[int, Transcript] = {}
    for group in groups:
        decoded = _decode(model, processor, [audio[index] for index in group], decoding)
        transcripts.update(zip(group, decoded, strict=True))
    # Windows are padded with silence, so `generate` gives times beyond a recording's end.
    rate = processor.feature_extractor.sampling_rate
    return [transcripts[index].until(len(sound) / rate) for index, sound in enumerate(audio)]


def _decode(model: Any, processor: Any, audio: list[Audio], decoding: Decoding) -> list[Transcript]:
    """Decode recordings that are encoded together: several short ones, or one long one."""
    long = len(audio[0]) > processor.feature_extractor.n_samples
    settings = settings_of(model, decoding, timestamps=long or decoding.timestamps)
    with torch.inference_mode():
        features, mask = _features(model, processor.feature_extractor, audio, long)
        decoded = loop.decode(model, features, settings)
        if decoded is not None:
            return [_transcript(processor, [_whole(row, features.shape[-1])]) for row in decoded]
        generated = with_settings(model, settings).generate(
            features.to(model.device), attention_mask=mask, return_segments=True
        )
    return [
        _transcript(processor, [{**s, "tokens": s["tokens"].tolist()} for s in segments])
        for segments in generated["segments"]
    ]


def _features(
    model: Any, extractor: Any, audio: list[Audio], long: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log-mel features [recordings, mels, frames], and the mask for long recordings.

    For a model without an `engine`, the original, transformers computes the features too.
    """
    lean_mel = None if long or not hasattr(model, "engine") else log_mel(extractor)
    if lean_mel is not None:
        return lean_mel(audio), None
    features = extractor(
        audio,
        sampling_rate=extractor.sampling_rate,
        truncation=False,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return features.input_features, features.attention_mask


def _whole(tokens: list[int], frames: int) -> dict[str, Any]:
    """Return a window without timestamps as a segment in the form of `generate`."""
    # The same operations and precision as in `generate`, including float32 rounding.
    steps = int(torch.tensor(frames) * 0.01 / 0.02)
    return {"start": 0.0, "end": steps * 0.02, "tokens": tokens}


def _transcript(processor: Any, segments: list[dict[str, Any]]) -> Transcript:
    """Join one recording's segments, in the form of `generate`, to a transcript."""
    tokenizer = processor.tokenizer
    spelling = speller(tokenizer)
    tokens: list[int] = []
    timed = []
    for segment in segments:
        ids = spelling.spoken(segment["tokens"])
        tokens += ids
        text = tokenizer.decode(ids).strip()
        timed.append(Segment(float(segment["start"]), float(segment["end"]), text))
    text = timed[0].text if len(timed) == 1 else tokenizer.decode(tokens).strip()
    return Transcript(text, tuple(tokens), tuple(timed))


class Speller:
    """The functions of a tokenizer that `transcribe` needs."""

    def __init__(self, tokenizer: Any) -> None:
        self._special = frozenset(tokenizer.all_special_ids)
        self._first_timestamp = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """Return the text tokens: neither special tokens nor timestamps."""
        return [i for i in tokens if i < self._first_timestamp and i not in self._special]


_spellers: WeakKeyDictionary[Any, Speller] = WeakKeyDictionary()


def speller(tokenizer: Any) -> Speller:
    """Return the tokenizer's speller, created at first use."""
    if tokenizer not in _spellers:
        _spellers[tokenizer] = Speller(tokenizer)
    return _spellers[tokenizer]
