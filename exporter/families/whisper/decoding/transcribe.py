"""Transcribe audio, for the original and for every artifact."""

import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from exporter.families.whisper.decoding import original
from exporter.families.whisper.decoding.settings import options_of, own_settings
from exporter.families.whisper.engine.device_engine import array_engine
from exporter.families.whisper.engine.eager import eager_engine
from exporter.families.whisper.engine.engine import Engine
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Sound, Transcript
from exporter.runtime.whisper.text import Text
from exporter.runtime.whisper.transcribe import Whisper


def transcribe(
    model: Any, processor: Any, audio: Sequence[Sound], decoding: Decoding
) -> list[Transcript]:
    """Transcribe recordings (float32 mono [samples] at the checkpoint's rate), in order.

    `model` is a `WhisperForConditionalGeneration`, `processor` its `WhisperProcessor`; transformers
    does not type the parts of both. A model without an `engine` is the original: transformers'
    own `generate` decodes it, so that it is the reference of comparisons, of tokens and of time.
    Options that `generate` lacks are followed by our own decoding, of its float32 modules.
    """
    options, extractor = options_of(model, decoding), processor.feature_extractor
    settings, text = own_settings(model, extractor), text_of(processor.tokenizer)
    engine = getattr(model, "engine", None)
    if engine is None and options.beyond_generate:
        engine = _float_engine(model)
    if engine is not None:
        return Whisper(array_engine(engine), settings, text).transcribe(audio, options)
    return original.transcribe(model, extractor, settings, text, audio, options)


def own_features(model: Any, processor: Any, sounds: Sequence[Audio]) -> Tensor:
    """Return the features that `transcribe` gives a model of recordings within a window."""
    extractor = processor.feature_extractor
    if getattr(model, "engine", None) is None:
        return original.short_features(extractor, sounds, model.device)[0]
    return torch.from_numpy(own_settings(model, extractor).mel(sounds)).to(model.device)


_engines: WeakKeyDictionary[Any, Engine] = WeakKeyDictionary()
_texts: WeakKeyDictionary[Any, Text] = WeakKeyDictionary()


def _float_engine(model: Any) -> Engine:
    """Return the engine of an original, whose caches are kept for its next recordings."""
    if model not in _engines:
        _engines[model] = eager_engine(model)
    return _engines[model]


def text_of(tokenizer: Any) -> Text:
    """Return a `WhisperTokenizerFast` for our own decoding, read at first use."""
    if tokenizer not in _texts:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        clean_up = bool(tokenizer.clean_up_tokenization_spaces)
        _texts[tokenizer] = Text(content, tokenizer.all_special_tokens, clean_up=clean_up)
    return _texts[tokenizer]
