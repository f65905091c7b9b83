"""Requests to a Whisper as people make them of transformers, and the stock model to compare."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from exporter.families.whisper.engine.cache import CACHE
from tests.support.whisper import sounds


@dataclass(frozen=True)
class Inputs:
    """Features of two short recordings and of a long one, tokens, and the prompt to ask for."""

    short: Tensor
    long: Tensor
    mask: Tensor
    words: Tensor
    earlier: Tensor
    asked: dict[str, str] = field(default_factory=dict)

    @property
    def one(self) -> Tensor:
        return self.short[:1]


def inputs_of(folder: Path, *, english: bool = False) -> Inputs:
    """Inputs for a tiny checkpoint."""
    processor = WhisperProcessor.from_pretrained(folder)
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    window_s = extractor.chunk_length
    short = extractor(sounds(1.0, 3.0), sampling_rate=16000, return_tensors="pt")
    long = extractor(
        sounds(2.3 * window_s),
        sampling_rate=16000,
        truncation=False,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return Inputs(
        short.input_features,
        long.input_features,
        long.attention_mask,
        tokenizer(" red two left stop", return_tensors="pt").input_ids,
        torch.as_tensor(processor.get_prompt_ids("green one", return_tensors="np")),
        {} if english else {"language": "en", "task": "transcribe"},
    )


def stock(folder: Path) -> Any:
    """The original, opened with nothing of ours."""
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


Request = Callable[[Any, Inputs], Tensor]


def _long(model: Any, given: Inputs, **how: Any) -> Tensor:
    tokens: Tensor = model.generate(
        given.long, attention_mask=given.mask, return_timestamps=True, **how, **given.asked
    )
    return tokens


def _in_detail(model: Any, given: Inputs, **how: Any) -> Any:
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    return model.generate(given.one, **asked, **how, **given.asked)


def _loss(model: Any, given: Inputs) -> Tensor:
    labels = given.words.clone()
    labels[:, -1] = -100
    loss: Tensor = model(given.one, labels=labels).loss
    return loss


REQUESTS: dict[str, Request] = {
    "logits of a prompt": lambda m, i: m(i.one, decoder_input_ids=i.words).logits,
    "logits of two prompts": lambda m, i: (
        m(i.short, decoder_input_ids=i.words.repeat(2, 1), use_cache=False).logits
    ),
    "as a tuple": lambda m, i: m(i.one, decoder_input_ids=i.words, return_dict=False)[0],
    "loss": _loss,
    "no cache": lambda m, i: m.generate(i.short, use_cache=False, **i.asked),
    "beams without a cache": lambda m, i: m.generate(
        i.short, use_cache=False, num_beams=3, **i.asked
    ),
    "prompt": lambda m, i: m.generate(i.short, prompt_ids=i.earlier, **i.asked),
    "tokens to go on from": lambda m, i: m.generate(i.one, decoder_input_ids=i.words),
    "candidates": lambda m, i: m.generate(i.one, prompt_lookup_num_tokens=3, **i.asked),
    "candidates of a prompt": lambda m, i: m.generate(
        i.one, prompt_lookup_num_tokens=3, prompt_ids=i.earlier, **i.asked
    ),
    "scores": lambda m, i: torch.stack(_in_detail(m, i).logits),
    "scores of beams": lambda m, i: _in_detail(m, i, num_beams=3).sequences_scores,
    "several answers": lambda m, i: m.generate(
        i.short, num_beams=3, num_return_sequences=2, **i.asked
    ),
    "penalties": lambda m, i: m.generate(
        i.one, repetition_penalty=1.2, no_repeat_ngram_size=2, **i.asked
    ),
    "fallback": lambda m, i: _long(
        m,
        i,
        condition_on_prev_tokens=True,
        temperature=(0.0, 0.0),
        compression_ratio_threshold=1.0,
        logprob_threshold=-1.0,
        no_speech_threshold=0.6,
    ),
    "a prompt for all windows": lambda m, i: _long(
        m,
        i,
        prompt_ids=i.earlier,
        prompt_condition_type="all-segments",
        condition_on_prev_tokens=True,
    ),
}

# What graphs do not give, and a part of the message.
REFUSED: dict[str, tuple[Request, str]] = {
    "attention": (lambda m, i: _in_detail(m, i, output_attentions=True), "output_attentions"),
    "hidden states": (
        lambda m, i: _in_detail(m, i, output_hidden_states=True),
        "output_hidden_states",
    ),
    "times of words": (
        lambda m, i: m.generate(i.one, return_token_timestamps=True, **i.asked),
        "timestamps of words",
    ),
    "a mask": (
        lambda m, i: m(
            i.one, decoder_input_ids=i.words, decoder_attention_mask=torch.zeros_like(i.words)
        ),
        "different lengths",
    ),
    "heads": (
        lambda m, i: m(i.one, decoder_input_ids=i.words, cross_attn_head_mask=torch.ones(2, 2)),
        "cross_attn_head_mask",
    ),
    "embeddings": (
        lambda m, i: m(i.one, decoder_inputs_embeds=torch.ones(1, 1, 64)),
        "decoder_inputs_embeds",
    ),
    "positions": (
        lambda m, i: m(i.one, decoder_input_ids=i.words, decoder_position_ids=i.words * 0 + 7),
        "decoder_position_ids",
    ),
    "another's cache": (
        lambda m, i: m(i.one, decoder_input_ids=i.words, **{CACHE: ((),)}),
        CACHE,
    ),
    "no tokens": (lambda m, i: m(i.one), "decoder_input_ids"),
    "no audio": (lambda m, i: m(decoder_input_ids=i.words), "input_features"),
    "too many tokens": (
        lambda m, i: m(i.one, decoder_input_ids=i.words[:, :1].repeat(1, 999)),
        "at most",
    ),
    "no such token": (lambda m, i: m(i.one, decoder_input_ids=i.words - 9999), "vocabulary"),
    "half a window": (
        lambda m, i: m(i.one[:, :, :50], decoder_input_ids=i.words),
        "this model takes",
    ),
}


def require_alike(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """So large a share of tokens may differ, or numbers by such a share of the largest."""
    assert found.shape == expected.shape
    if not expected.is_floating_point():
        assert float((found != expected).float().mean()) <= tolerance
        return
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance
