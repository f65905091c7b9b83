"""Transcribe audio, for the original and for every artifact."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from exporter.families.whisper.decoding import loop
from exporter.families.whisper.decoding.log_mel import log_mel
from exporter.families.whisper.decoding.long_features import LongFeatures
from exporter.families.whisper.decoding.settings import settings_of, with_settings
from exporter.formats.audio import LongAudio, whole
from exporter.recipe import Decoding
from exporter.runtime.transcript import Segment, Sound, Transcript


def transcribe(
    model: Any, processor: Any, audio: Sequence[Sound], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order.

    `model` is a `WhisperForConditionalGeneration`, `processor` its `WhisperProcessor`; transformers
    does not type the parts of both.

    Recordings within the window are decoded `decoding.batch_size` at a time; longer ones one by
    one, with timestamps, because `generate` moves its window from one timestamp to the next.
    """
    window = processor.feature_extractor.n_samples
    long = [index for index, sound in enumerate(audio) if _is_long(sound, window)]
    short = [index for index in range(len(audio)) if index not in long]
    size = decoding.batch_size
    groups = [short[start : start + size] for start in range(0, len(short), size)]
    groups += [[index] for index in long]
    transcripts: dict[int, Transcript] = {}
    for group in groups:
        decoded = _decode(model, processor, [audio[index] for index in group], decoding)
        transcripts.update(zip(group, decoded, strict=True))
    return [transcripts[index] for index in range(len(audio))]


def _is_long(sound: Sound, window: int) -> bool:
    return isinstance(sound, LongAudio) or len(sound) > window


def _decode(model: Any, processor: Any, audio: list[Sound], decoding: Decoding) -> list[Transcript]:
    """Decode recordings that are encoded together: several short ones, or one long one."""
    extractor = processor.feature_extractor
    long = _is_long(audio[0], extractor.n_samples)
    settings = settings_of(model, decoding, timestamps=long or decoding.timestamps)
    with torch.inference_mode():
        features, mask, lengths = features_of(model, extractor, audio, long=long)
        decoded = None
        if isinstance(features, Tensor):
            decoded = loop.decode(model, features, settings)
        if decoded is None:
            generated = with_settings(model, settings).generate(
                features, attention_mask=mask, return_segments=True
            )
            recordings = [
                [{**s, "tokens": s["tokens"].tolist()} for s in segments]
                for segments in generated["segments"]
            ]
        else:
            recordings = [[_whole(row, features.shape[-1])] for row in decoded]
    # Windows are padded with silence, so `generate` gives times beyond a recording's end.
    return [
        _transcript(processor, segments).until(length / extractor.sampling_rate)
        for segments, length in zip(recordings, lengths, strict=True)
    ]


def features_of(
    model: Any, extractor: Any, audio: Sequence[Sound], *, long: bool
) -> tuple[Tensor | LongFeatures, Tensor | None, list[int]]:
    """Return log-mel features, their mask if transformers made it, and the recordings' samples.

    The features have the shape [recordings, mels, frames]. Those of a long recording come window by
    window. For a model without an `engine`, the original, transformers computes those of short
    recordings.
    """
    lean_mel = log_mel(extractor)
    if lean_mel is not None and long:
        features = LongFeatures(lean_mel, audio[0], model.device)
        return features, None, [features.samples]
    sounds = [whole(sound) for sound in audio]
    lengths = [len(sound) for sound in sounds]
    if lean_mel is not None and hasattr(model, "engine"):
        return lean_mel(sounds).to(model.device), None, lengths
    computed = extractor(
        sounds,
        sampling_rate=extractor.sampling_rate,
        truncation=False,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return computed.input_features.to(model.device), computed.attention_mask, lengths


def _whole(tokens: list[int], frames: int) -> dict[str, Any]:
    """Return a window without timestamps as a segment in the form of `generate`."""
    # The same operations and precision as in `generate`, including float32 rounding.
    steps = int(torch.tensor(frames) * 0.01 / 0.02)
    return {"start": 0.0, "end": steps * 0.02, "tokens": tokens}


def _transcript(processor: Any, segments: list[dict[str, Any]]) -> Transcript:
    """Join one recording's segments, in the form of `generate`, to a transcript."""
    tokenizer = processor.tokenizer
    tokens = [token for segment in segments for token in segment["tokens"]]
    timed = tuple(
        Segment(float(one["start"]), float(one["end"]), _text(tokenizer, one["tokens"]))
        for one in segments
    )
    text = timed[0].text if len(timed) == 1 else _text(tokenizer, tokens)
    return Transcript(text, tuple(speller(tokenizer).spoken(tokens)), timed)


def _text(tokenizer: Any, tokens: list[int]) -> str:
    """Return the text as transformers decodes it: without special tokens and timestamps."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


class Speller:
    """The functions of a tokenizer that `transcribe` needs.

    Words that were added to a tokenizer are text, though their ids are above the timestamps'.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder.items()
        special = {token for token, stored in added if stored.special}
        self._special = special.union(tokenizer.all_special_ids)
        self._timestamps = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
        self._words = {
            token
            for word, token in tokenizer.get_vocab().items()
            if token >= self._timestamps and not tokenizer.timestamp_pat.fullmatch(word)
        }

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that have text: neither special, nor timestamps, nor unknown."""
        return [
            token
            for token in tokens
            if (token < self._timestamps or token in self._words) and token not in self._special
        ]


_spellers: WeakKeyDictionary[Any, Speller] = WeakKeyDictionary()


def speller(tokenizer: Any) -> Speller:
    """Return the tokenizer's speller, created at first use."""
    if tokenizer not in _spellers:
        _spellers[tokenizer] = Speller(tokenizer)
    return _spellers[tokenizer]
