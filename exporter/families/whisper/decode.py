"""Audio in, text out: the one road that the original and every artifact take."""

from collections.abc import Sequence
from typing import Any

import torch

from exporter.errors import RecipeError
from exporter.recipe import Decoding
from exporter.transcript import Audio, Segment, Transcript


def check_decoding(generation_config: dict[str, Any], decoding: Decoding) -> None:
    """Refuse a language or task that the checkpoint does not have."""
    asked = {"language": decoding.language, "task": decoding.task}
    if not generation_config.get("is_multilingual", True):
        given = [name for name, value in asked.items() if value is not None]
        if given:
            msg = f"an English-only checkpoint takes no {' or '.join(given)}: leave it out"
            raise RecipeError(msg)
        return
    known = [token[2:-2] for token in generation_config.get("lang_to_id") or {}]
    if decoding.language is not None and not known:
        msg = "its generation_config.json has no `lang_to_id`: take one from the original model"
        raise RecipeError(msg)
    if decoding.language is not None and decoding.language not in known:
        shown = ", ".join(sorted(known)[:12]) + (" ..." if len(known) > 12 else "")
        msg = f"the checkpoint has no language {decoding.language!r}: {shown}"
        raise RecipeError(msg)


def transcribe(
    model: Any, processor: Any, audio: Sequence[Audio], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order.

    `model` is a `WhisperForConditionalGeneration`, `processor` its `WhisperProcessor`; transformers
    leaves the parts of both untyped.

    Those within the window are decoded `decoding.batch_size` at a time; longer ones one by one,
    with timestamps, because `generate` moves its window from one timestamp to the next.
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
    return [transcripts[index] for index in range(len(audio))]


def _decode(model: Any, processor: Any, audio: list[Audio], decoding: Decoding) -> list[Transcript]:
    """Decode recordings that go through the encoder together: several short ones, or one long."""
    extractor = processor.feature_extractor
    long = len(audio[0]) > extractor.n_samples
    features = extractor(
        audio,
        sampling_rate=extractor.sampling_rate,
        truncation=False,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    asked = {"language": decoding.language, "task": decoding.task}
    with torch.inference_mode():
        generated = model.generate(
            features.input_features,
            attention_mask=features.attention_mask,
            return_timestamps=long or decoding.timestamps,
            return_segments=True,
            num_beams=decoding.num_beams,
            **{name: value for name, value in asked.items() if value is not None},
        )
    return [_transcript(processor, segments) for segments in generated["segments"]]


def _transcript(processor: Any, segments: list[dict[str, Any]]) -> Transcript:
    """Join one recording's segments, as `generate` returns them."""
    tokenizer = processor.tokenizer
    special = set(tokenizer.all_special_ids)
    first_timestamp = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    tokens: list[int] = []
    timed = []
    for segment in segments:
        ids = [i for i in segment["tokens"].tolist() if i not in special and i < first_timestamp]
        tokens += ids
        text = tokenizer.decode(ids).strip()
        timed.append(Segment(float(segment["start"]), float(segment["end"]), text))
    return Transcript(tokenizer.decode(tokens).strip(), tuple(tokens), tuple(timed))
