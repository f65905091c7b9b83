"""What every family offers to the rest: how a model is cut into graphs and how it transcribes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from exporter.families.graph import Graph, GraphFunction
from exporter.families.transcript import Audio, Transcript
from exporter.recipe import Decoding


class Family(Protocol):
    """What a family's module offers.

    `architecture` is what of a config, beside the weights' shapes, decides what graphs compute.
    `TIED` maps a parameter of the model to the one that checkpoints store for it; `HEAD` is the
    module that gives the vocabulary's logits. `LAYERS` names, for each static graph, the config's
    count of its layers. Models and processors are opaque to everybody else.
    """

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
