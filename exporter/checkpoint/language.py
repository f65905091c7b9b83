"""Merge one language's weights and vocabulary into a checkpoint of many languages."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.checkpoint.files import CONFIG
from exporter.checkpoint.shards import file_infos
from exporter.families.base import Family
from exporter.families.language import OneLanguage
from exporter.formats.config_json import is_regular_file, read_json
from exporter.formats.tensor_io import TensorInfo

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint


def in_one_language(
    opened: "Checkpoint", family: Family, wanted: str | None, *, allow_pickle: bool
) -> "Checkpoint":
    """Return a checkpoint in the wanted language, or that of its files, if there are several.

    Its companions then are those of a checkpoint of one language, which any loader reads.

    Raises:
        RecipeError: The wanted language has no vocabulary.
        CheckpointError: That of the files has none, or no weights lie beside the checkpoint's.
    """
    language = family.one_language(opened.folder, wanted)
    if language is None:
        return opened
    tensors = _weights(opened.folder, language, allow_pickle=allow_pickle)
    merged = {**opened.tensors, **tensors}
    head = tensors.get(f"{family.HEAD}.weight")
    outputs: dict[str, Any] = {language.key: language.name}
    if head is not None:
        outputs["vocab_size"] = head.shape[0]
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
    names = [path.name for path in folder.iterdir() if is_regular_file(path)]
    name = language.file(names, str(folder))
    return {} if name is None else file_infos(folder / name, allow_pickle=allow_pickle)


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"
