"""Whisper as a family: graphs, assembly, processor and transcription."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import CheckpointError, IntegrityError
from exporter.families.base import Cache, Configs
from exporter.families.derived import Derivation
from exporter.families.graph import Graph, GraphFunction
from exporter.families.offline import offline
from exporter.families.whisper import agreement, construct
from exporter.families.whisper import forced as forcing
from exporter.families.whisper.construct import generation_config
from exporter.families.whisper.decoding.options import (
    check_decoding,
    language_code,
    text_language,
)
from exporter.families.whisper.decoding.settings import force_tokens, limit_tokens
from exporter.families.whisper.decoding.transcribe import text_of, transcribe
from exporter.families.whisper.engine.eager import eager_engine
from exporter.families.whisper.engine.model import DECODERS, GraphWhisper
from exporter.families.whisper.engine.model import assemble as _assemble
from exporter.families.whisper.graphs.buffers import buffer_graphs
from exporter.families.whisper.graphs.device import device_graphs
from exporter.families.whisper.graphs.merged import dynamic_graphs
from exporter.families.whisper.graphs.static import static_graphs
from exporter.families.whisper.graphs.step import step_graphs
from exporter.runtime.whisper.settings import CONFIG, GENERATION

__all__ = [  # the family's protocol
    "BARE",
    "HEAD",
    "LAYERS",
    "TIED",
    "UNUSED",
    "architecture",
    "assemble",
    "attach_engine",
    "check_decoding",
    "check_processor",
    "configs",
    "derived",
    "device_graphs",
    "force_tokens",
    "forcing",
    "graphs",
    "language_code",
    "limit_tokens",
    "one_language",
    "open_original",
    "prefix",
    "processor",
    "sampling_rate",
    "skeleton",
    "text_language",
    "tokenizer_files",
    "transcribe",
    "vocabulary",
    "window",
]

TIED = {"proj_out.weight": "model.decoder.embed_tokens.weight"}
HEAD = "proj_out"
BARE = ("encoder.", "decoder.")
UNUSED = ()
LAYERS = {"encoder": "encoder_layers", "decoder": "decoder_layers"}


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config values that determine graphs besides the weights' shapes."""
    whole = construct.config(config)
    names = ("model_type", "activation_function", "scale_embedding", "tie_word_embeddings")
    heads = ("encoder_attention_heads", "decoder_attention_heads")
    return {name: getattr(whole, name) for name in (*names, *heads)}


def prefix(_config: dict[str, Any]) -> str:
    """Return how the names of parameters begin, except the head's."""
    return "model."


def derived(_config: dict[str, Any]) -> Mapping[str, Sequence[Derivation]]:
    """Return no derivations: every parameter is stored unchanged."""
    return {}


def one_language(_folder: Path, _wanted: str | None) -> None:
    """Return None: all languages of a Whisper have the same weights."""
    return


def skeleton(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Create the transformers model of a config on the `meta` device, without weights.

    Raises:
        CheckpointError: No Whisper has such a config.
    """
    model: nn.Module = construct.skeleton(config, dtype)
    return model.eval().requires_grad_(False)


def graphs(model: Any, cache: Cache) -> list[Graph]:
    """Cut a model into graphs, with a cache that grows or one of fixed length."""
    if cache == "static":
        return static_graphs(model)
    if cache == "buffers":
        return [*dynamic_graphs(model), *buffer_graphs(model)]
    return [*dynamic_graphs(model), *step_graphs(model)]


def assemble(
    folder: Path,
    functions: Mapping[str, GraphFunction],
    cache_dtype: torch.dtype = torch.float32,
    *,
    narrow: bool = False,
) -> GraphWhisper:
    """Join built graphs, and the configs in `folder`, into a model that generates.

    Args:
        folder: The artifact, for the configs in it.
        functions: The built graphs by name.
        cache_dtype: The type of caches that graphs write in place.
        narrow: Whether those of `device_graphs` keep the audio's keys and values in int8.
    """
    if functions.keys().isdisjoint(DECODERS):
        given = ", ".join(sorted(functions))
        msg = (
            f"{folder} holds graphs of an earlier exporter, or one is missing: it has {given}, and "
            f"no {' or '.join(sorted(DECODERS))}.\nBuild it again with --force."
        )
        raise IntegrityError(msg)
    config = construct.config_of(folder)
    with offline():
        return _assemble(config, generation_config(folder), functions, cache_dtype, narrow=narrow)


def attach_engine(model: Any, folder: Path) -> None:
    """Set an open Whisper's generation config, and `model.engine`, by which it is decoded."""
    model.generation_config = generation_config(folder)
    model.engine = eager_engine(model, compact=True)


def configs(model: Any) -> Configs:
    """Return an open model's configs, by file name."""
    return {CONFIG: model.config.to_dict(), GENERATION: model.generation_config.to_dict()}


def open_original(folder: Path, state: dict[str, Tensor] | None = None) -> Any:
    """Open the original in float32 in transformers: the reference for every comparison.

    With `state`, only the configs are read from the folder.
    """
    model = construct.original(folder, state)
    model.generation_config = generation_config(folder)
    return model.eval()


def processor(folder: Path) -> Any:
    """Open the feature extractor and tokenizer.

    Raises:
        CheckpointError: They cannot be read, or do not fit the configs beside them.
    """
    loaded = construct.processor(folder)
    _require_fit(folder, loaded, construct.values_of(folder / CONFIG))
    return loaded


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return nothing: `tokenizer.json` is among a checkpoint's own files, or is missed there."""
    return {}


def check_processor(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a feature extractor or tokenizer that belongs to another model."""
    generation_config(folder)
    loaded = construct.processor(folder)
    _require_fit(folder, loaded, config, every_word=True)


def _require_fit(
    folder: Path, loaded: Any, config: dict[str, Any], *, every_word: bool = False
) -> None:
    extractor, tokenizer = loaded.feature_extractor, loaded.tokenizer
    generation = construct.values_of(folder / GENERATION)
    wrong = agreement.wrong_tokens(config, generation, extractor, tokenizer)
    if every_word:
        wrong += agreement.wrong_words(folder, config, generation, tokenizer)
    if wrong:
        msg = f"{folder}: the feature extractor or tokenizer is another model's: {'; '.join(wrong)}"
        raise CheckpointError(msg)


def vocabulary(processor: Any) -> int:
    """Return the number of tokens that have text."""
    text = text_of(processor.tokenizer)
    return len(text.spoken(text.ids))


def window(processor: Any) -> int:
    """Return the samples in a window; longer recordings are decoded in several steps."""
    samples: int = processor.feature_extractor.n_samples
    return samples


def sampling_rate(processor: Any) -> int:
    """Return the sampling rate in Hz that `transcribe` expects."""
    rate: int = processor.feature_extractor.sampling_rate
    return rate
