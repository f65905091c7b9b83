"""The kinds of speech model that are known: one module each, and this dict.

A family knows how a model is cut into graphs and how it transcribes. To add one: one file (or
folder) here, one line in `FAMILIES`, one tiny model in `tests/`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from exporter.errors import CheckpointError
from exporter.families import whisper
from exporter.graphs import Graph, GraphFunction
from exporter.recipe import Decoding
from exporter.transcript import Audio, Transcript


class Family(Protocol):
    """What a family's module offers.

    `architecture` is what of a config, beside the weights' shapes, decides what graphs compute.
    `TIED` maps a parameter of the model to the one that checkpoints store for it; `HEAD` is the
    module that gives the vocabulary's logits. `LAYERS` names, for each static graph, the config's
    count of its layers. Models and processors are opaque to everybody else.
    """

    MODEL_TYPES: tuple[str, ...]
    TIED: dict[str, str]
    HEAD: str
    LAYERS: dict[str, str]

    def architecture(self, config: dict[str, Any]) -> dict[str, Any]: ...
    def skeleton(self, config: dict[str, Any], dtype: torch.dtype = ...) -> nn.Module: ...
    def graphs(self, model: nn.Module, cache: Literal["dynamic", "static"]) -> list[Graph]: ...
    def assemble(
        self,
        folder: Path,
        functions: Mapping[str, GraphFunction],
        cache_dtype: torch.dtype = ...,
    ) -> Any: ...
    def attach_engine(self, model: Any) -> None: ...
    def generation_config(self, folder: Path) -> Any: ...
    def open_original(self, folder: Path, state: dict[str, Tensor] | None = ...) -> Any: ...
    def processor(self, folder: Path) -> Any: ...
    def sampling_rate(self, processor: Any) -> int: ...
    def window(self, processor: Any) -> int: ...
    def check_processor(self, folder: Path, config: dict[str, Any]) -> None: ...
    def only_language(
        self, config: dict[str, Any], generation_config: dict[str, Any]
    ) -> str | None: ...
    def check_decoding(
        self, config: dict[str, Any], generation_config: dict[str, Any], decoding: Decoding
    ) -> None: ...
    def transcribe(
        self, model: Any, processor: Any, audio: Sequence[Audio], decoding: Decoding
    ) -> list[Transcript]: ...


FAMILIES: dict[str, Family] = {"whisper": whisper}


def family_name(config: dict[str, Any]) -> str:
    """The family of a checkpoint by its config's `model_type`; nothing of it is executed."""
    model_type = config.get("model_type")
    for name, family in FAMILIES.items():
        if model_type in family.MODEL_TYPES:
            return name
    known = ", ".join(sorted(t for family in FAMILIES.values() for t in family.MODEL_TYPES))
    msg = f"config.json: model_type {model_type!r} is not one of: {known}"
    raise CheckpointError(msg)
