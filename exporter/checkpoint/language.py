"""Merge one language's weights and vocabulary into a checkpoint of many languages."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.checkpoint.files import CONFIG
from exporter.checkpoint.shards import file_infos
from exporter.errors import CheckpointError
from exporter.families.base import Family
from exporter.families.language import OneLanguage
from exporter.formats.config_json import is_regular_file, read_json
from exporter.formats.tensor_io import TensorInfo

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint

_SUFFIXES = (".safetensors", ".bin")


def in_one_language(opened: "Checkpoint", family: Family, *, allow_pickle: bool) -> "Checkpoint":
    """Return a checkpoint in the language that its files name, if there are several.

    Its companions then are those of a checkpoint of one language, which any loader reads.

    Raises:
        CheckpointError: The language has no vocabulary, or no weights beside the checkpoint's.
    """
    language = family.one_language(opened.folder)
    if language is None:
        return opened
    tensors = _weights(opened.folder, language, allow_pickle=allow_pickle)
    merged = {**opened.tensors, **tensors}
    head = tensors.get(f"{family.HEAD}.weight")
    outputs = {} if head is None else {"vocab_size": head.shape[0]}
    raw = {**read_json(opened.companions[CONFIG]), **outputs}
    written: dict[str, Mapping[str, Any]] = {**language.companions, CONFIG: raw}
    return replace(
        opened,
        tensors=merged,
        config={**opened.config, **outputs},
        converted={
            **opened.converted,
            **{n: _text(v) for n, v in written.items() if n in opened.companions},
        },
        language=language.name,
    )


def _weights(folder: Path, language: OneLanguage, *, allow_pickle: bool) -> dict[str, TensorInfo]:
    for suffix in _SUFFIXES:
        path = folder / f"{language.weights}{suffix}"
        if is_regular_file(path):
            return file_infos(path, allow_pickle=allow_pickle)
    if language.stored:
        return {}
    msg = (
        f"{folder}: no {language.weights}.safetensors, the weights for the language that "
        "tokenizer_config.json names"
    )
    raise CheckpointError(msg)


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"
