"""What every family offers to the rest: how a model is cut into graphs and how it transcribes.

The facts that need no torch are `exporter.families.facts.FamilyFacts`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from exporter.families.derived import Derivation
from exporter.families.graph import Graph, GraphFunction
from exporter.families.transcript import Audio, Transcript
from exporter.recipe import Decoding

Configs = Mapping[str, Mapping[str, Any]]
"""The JSON files of `FamilyFacts.COMPANIONS.configs`, by file name."""


class Family(Protocol):
    """What a family's module offers.

    Models and processors are opaque to everybody else, but for two things. A model whose logits
    `validate` is to look at is a torch module, and its forward gives an output with `logits`. One
    that computes with graphs keeps them by name in a dictionary `model.engine.functions`, and looks
    there at every call, so that `bench` can time them.

    Attributes:
        TIED: Maps a parameter of the model to the one with the same values that checkpoints store.
        HEAD: The name of the module that gives the vocabulary's logits.
        LAYERS: Maps the name of each graph of the static cut to the config's key that counts its
            layers.
    """

    TIED: Mapping[str, str]
    HEAD: str
    LAYERS: Mapping[str, str]

    def architecture(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return what of a config decides, beside the weights' shapes, what graphs compute.

        Args:
            config: The contents of `config.json`.

        Returns:
            Plain data, part of the key under which a built graph is kept.

        Raises:
            CheckpointError: No model of this family has such a config.
        """
        ...

    def derived(self, config: dict[str, Any]) -> Mapping[str, Sequence[Derivation]]:
        """Return the parameters that checkpoints store in another form.

        Args:
            config: The contents of `config.json`.

        Returns:
            By the parameter's name in `skeleton`, the forms in which it may be stored. The first
            counts whose sources a checkpoint has all; those are then no tensors of their own. A
            parameter that is stored under its own name is taken as it is.
        """
        ...

    def skeleton(self, config: dict[str, Any], dtype: torch.dtype = ...) -> nn.Module:
        """Make the model of a config on the `meta` device: shapes without weights.

        Its `state_dict` names what a checkpoint has to hold, with `derived` applied.

        Args:
            config: The contents of `config.json`.
            dtype: What the model computes in.

        Raises:
            CheckpointError: No model of this family has such a config.
        """
        ...

    def graphs(self, model: nn.Module, cache: Literal["dynamic", "static"]) -> list[Graph]:
        """Cut a model into the graphs that a target builds.

        Args:
            model: A skeleton, in which a target may have replaced linear modules, and given
                embeddings and convolution kernels the 16 bits in which they are stored: graphs
                convert those to the type that they compute in.
            cache: Whether what the model remembers of a recording grows from call to call, or has
                a fixed length. A model that remembers nothing has one cut for both.
        """
        ...

    def assemble(
        self, folder: Path, functions: Mapping[str, GraphFunction], cache_dtype: torch.dtype = ...
    ) -> Any:
        """Join built graphs into a model that `transcribe` takes.

        Args:
            folder: The artifact, for the configs in it.
            functions: The built graphs by their names in one of the cuts; float32 in and out.
            cache_dtype: The type of tensors that graphs write in place.

        Raises:
            IntegrityError: The graphs are of no cut that is known.
        """
        ...

    def attach_engine(self, model: Any, folder: Path) -> None:
        """Make a skeleton with weights ready for `transcribe`.

        Args:
            model: A skeleton whose weights are there, its linear modules perhaps replaced.
            folder: The artifact, for the configs in it.
        """
        ...

    def open_original(self, folder: Path, state: dict[str, Tensor] | None = ...) -> Any:
        """Open a checkpoint in float32 as transformers runs it: the reference of comparisons.

        Args:
            folder: The checkpoint, or a folder with its companions alone.
            state: Its weights by their stored names, where transformers cannot read them itself.
        """
        ...

    def processor(self, folder: Path) -> Any:
        """Open a folder's feature extractor and tokenizer.

        Raises:
            CheckpointError: They cannot be read.
        """
        ...

    def sampling_rate(self, processor: Any) -> int:
        """Return the samples a second that `transcribe` expects."""
        ...

    def window(self, processor: Any) -> int:
        """Return the samples that are decoded at once; longer recordings take several steps."""
        ...

    def check_processor(self, folder: Path, config: dict[str, Any]) -> None:
        """Check the companions in a folder against the model that a config describes.

        Raises:
            CheckpointError: The feature extractor or tokenizer is another model's.
        """
        ...

    def configs(self, model: Any) -> Configs:
        """Return the configs of an open model, as its folder had them."""
        ...

    def only_language(self, configs: Configs) -> str | None:
        """Return the language of a model that knows one alone, as its code; None for others."""
        ...

    def check_decoding(self, configs: Configs, decoding: Decoding) -> None:
        """Check that a checkpoint can decode as it is wanted.

        Raises:
            RecipeError: The family lacks an option, or the model a language or a task.
            CheckpointError: The configs leave open what decoding needs to know.
        """
        ...

    def limit_tokens(self, model: Any, tokens: int) -> None:
        """Let a model decode about so many tokens of a recording at most, to save time.

        A model whose text is no longer than its audio allows may ignore it.
        """
        ...

    def force_tokens(self, model: Any, tokens: int) -> bool:
        """Make a model decode exactly so many tokens of every window, whatever it hears.

        Returns:
            Whether it does. False where the audio's length alone decides what is computed: then
            every window is the same work anyway.

        Raises:
            RecipeError: The model cannot decode so many.
        """
        ...

    def transcribe(
        self, model: Any, processor: Any, audio: Sequence[Audio], decoding: Decoding
    ) -> list[Transcript]:
        """Transcribe recordings, in order.

        Args:
            model: What `assemble`, `attach_engine` or `open_original` has made.
            processor: What `processor` gave.
            audio: Float32 mono samples in [-1, 1], each of any length, at `sampling_rate`.
            decoding: Options that `check_decoding` allows.
        """
        ...
