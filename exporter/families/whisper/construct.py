"""Construct transformers' Whisper, its configs and its processor, from checked values only.

transformers is never given a folder whose configs it would read itself: they may name packages and
repositories whose code it runs. The attention is always named, and the network never used.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

from exporter.errors import CheckpointError, exhausted
from exporter.families.offline import offline
from exporter.families.whisper import agreement
from exporter.families.whisper.config_limits import CONFIGS
from exporter.families.whisper.decoding.settings import model_settings
from exporter.formats.config_json import is_regular_file, read_json
from exporter.formats.config_limits import held
from exporter.runtime.whisper.settings import CONFIG, GENERATION

_EXTRACTOR, _TOKENIZER = "preprocessor_config.json", "tokenizer_config.json"
_SPECIAL, _ADDED = "special_tokens_map.json", "added_tokens.json"
_MAX_BYTES = 16 << 20
_ATTENTION = "sdpa"


def config(values: dict[str, Any], where: str = CONFIG) -> WhisperConfig:
    """Return a model's config.

    Args:
        values: The content of `config.json`.
        where: The file, for messages.

    Raises:
        CheckpointError: No Whisper has such a config.
    """
    checked = held(CONFIGS[CONFIG], values, where)
    try:
        return WhisperConfig.from_dict(checked, attn_implementation=_ATTENTION)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        msg = f"{where}: {str(error)[:200]}: this is no Whisper's"
        raise CheckpointError(msg) from error


def config_of(folder: Path) -> WhisperConfig:
    """Return the config of the model in a folder."""
    return config(read_json(folder / CONFIG), str(folder / CONFIG))


def values_of(path: Path) -> dict[str, Any]:
    """Return what is used of a config file.

    Raises:
        CheckpointError: It cannot be read, or holds what no Whisper's may.
    """
    return held(CONFIGS[path.name], read_json(path), str(path))


def skeleton(values: dict[str, Any], dtype: torch.dtype) -> WhisperForConditionalGeneration:
    """Return the model of a config on the `meta` device, without weights."""
    try:
        with torch.device("meta"), offline():
            return WhisperForConditionalGeneration._from_config(
                config(values), attn_implementation=_ATTENTION, dtype=dtype
            )
    except ValueError as error:
        msg = f"{CONFIG}: {str(error)[:200]}: this is no Whisper's"
        raise CheckpointError(msg) from error


def original(folder: Path, state: dict[str, Tensor] | None) -> WhisperForConditionalGeneration:
    """Return a checkpoint's model in float32, with the weights of the folder or of `state`.

    With a generation config given, transformers neither reads the folder's nor runs its
    `custom_generate/generate.py`, which it does not ask about for a local folder.
    """
    weights: dict[str, Any] = {"state_dict": state}
    if state is None:
        weights = {"use_safetensors": True, "local_files_only": True}
    with offline():
        return WhisperForConditionalGeneration.from_pretrained(
            folder if state is None else None,
            config=config_of(folder),
            generation_config=generation_config(folder),
            attn_implementation=_ATTENTION,
            dtype=torch.float32,
            trust_remote_code=False,
            **weights,
        )


def generation_config(folder: Path) -> GenerationConfig:
    """Return those settings of the folder's generation config that belong to the model.

    Raises:
        CheckpointError: No Whisper has such a config, or not with this vocabulary.
    """
    path = folder / GENERATION
    values, model = values_of(path), values_of(folder / CONFIG)
    for wrong in agreement.wrong_numbers(model, values):
        msg = f"{path}: {wrong}"
        raise CheckpointError(msg)
    if heads := values.get("alignment_heads"):
        values["alignment_heads"] = agreement.own_alignment_heads(model, heads) or None
    try:
        return model_settings(values, model["max_target_positions"])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        msg = f"{path}: {str(error).splitlines()[0][:200]}: this is no Whisper's"
        raise CheckpointError(msg) from error


def processor(folder: Path) -> WhisperProcessor:
    """Return the feature extractor and the tokenizer.

    Raises:
        CheckpointError: They cannot be read.
    """
    extractor = values_of(folder / _EXTRACTOR)
    settings = _checked(folder / _TOKENIZER)
    settings.pop("tokenizer_class", None)
    _checked(folder / _SPECIAL)
    files = {
        argument: str(folder / name)
        for argument, name in _tokenizer_files().items()
        if _is_small(folder / name)
    }
    try:
        with offline():
            # `from_pretrained` would read the config and whatever else it finds in the folder.
            tokenizer = WhisperTokenizerFast._from_pretrained(
                files, str(folder / "-"), settings, local_files_only=True, _is_local=True
            )
            tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = str(folder)
            return WhisperProcessor(WhisperFeatureExtractor(**extractor), tokenizer)
    except Exception as error:  # the type that tokenizers raises for an invalid file
        if exhausted(error):
            raise
        reason = (str(error).splitlines() or [repr(error)])[0]
        msg = f"{folder}: the tokenizer or feature extractor cannot be read ({reason[:200]})"
        raise CheckpointError(msg) from error


def _checked(path: Path) -> dict[str, Any]:
    """Return what is used of a tokenizer's config, which a folder may lack."""
    if not is_regular_file(path):
        return {}
    return values_of(path)


def _is_small(path: Path) -> bool:
    """Return whether there is a file, which transformers will read whole."""
    there = is_regular_file(path)
    if there and path.stat().st_size > _MAX_BYTES:
        msg = f"{path}: larger than {_MAX_BYTES} bytes: this is no Whisper's tokenizer"
        raise CheckpointError(msg)
    return there


def _tokenizer_files() -> dict[str, str]:
    """Return the tokenizer's files by transformers' name for each."""
    own: dict[str, str] = WhisperTokenizerFast.vocab_files_names
    return {**own, "added_tokens_file": _ADDED, "special_tokens_map_file": _SPECIAL}
