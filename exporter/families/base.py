"""The interface of families: cutting a model into graphs, and transcribing.

The facts that need no torch are `exporter.families.facts.FamilyFacts`.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from exporter.families.derived import Derivation
from exporter.families.forcing import Forced
from exporter.families.graph import Graph, GraphFunction
from exporter.families.language import OneLanguage
from exporter.families.layered import LayeredGraph
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Sound, Transcript

Cache = Literal["dynamic", "static", "buffers"]
"""How graphs keep what they computed; see `Family.graphs`."""

Configs = Mapping[str, Mapping[str, Any]]
"""The JSON files of `FamilyFacts.COMPANIONS.configs`, by file name."""


class Forcing(Protocol):
    """Decode given tokens, for comparisons of an artifact with its original step by step."""

    def runs_once(self, module: str) -> bool:
        """Return whether a module runs once per window of audio, not once per token."""
        ...

    def cache_of(self, module: str) -> Literal["window", "token"] | None:
        """Return the cache that keeps a module's output: of the audio, or of the tokens."""
        ...

    def static_graph(self, module: str) -> str:
        """Return the name of the graph of the static cut that a module belongs to."""
        ...

    def keeps_int8(self, quantized: Collection[str]) -> bool:
        """Return whether the audio's keys and values come from weights of `quantized` modules."""
        ...

    def cache_heads(self, model: Any) -> int:
        """Return the number of heads in both caches."""
        ...

    def window_features(self, processor: Any, sounds: Sequence[Audio]) -> Tensor:
        """Return the inputs of the encoder [recordings, ...] of recordings cut to a window."""
        ...

    def own_features(self, model: Any, processor: Any, sounds: Sequence[Audio]) -> Tensor:
        """Return the inputs of the encoder that `transcribe` gives a model for such recordings."""
        ...

    def forced_prompt(self, model: Any, decoding: Decoding) -> list[int]:
        """Return the tokens before a text; empty for a model without a decoder."""
        ...

    def most_tokens(self, model: Any) -> int:
        """Return the most tokens of a window, the prompt included; 0 without a decoder."""
        ...

    def forced(self, model: Any, features: Tensor, tokens: Tensor, calls: Sequence[int]) -> Forced:
        """Decode tokens int64 [windows, tokens], so many in each call of the decoder.

        `model` is one of `assemble`, `attach_engine` or `open_original`, or a module like the
        last with other linear modules.
        """
        ...

    def forced_rows(
        self, model: Any, features: Tensor, tokens: Tensor, prompt: int, beams: int
    ) -> Tensor:
        """Decode several hypotheses of each window, of which two change places and back.

        Args:
            model: A model of `assemble` or `attach_engine`.
            features: The features of each window.
            tokens: The tokens of each hypothesis, int64 [windows * beams, tokens]; those of one
                window begin with the same prompt.
            prompt: The tokens of the prompt.
            beams: The hypotheses of a window.

        Returns:
            Logits float32 [windows * beams, tokens - prompt, vocabulary], in the tokens' order.
        """
        ...

    def forced_others(
        self,
        model: Any,
        graphs: Mapping[str, GraphFunction],
        features: Tensor,
        tokens: Tensor,
        calls: Sequence[int],
    ) -> dict[str, Forced]:
        """Decode with the graphs that only other loaders use, as these do, by graph."""
        ...


class Family(Protocol):
    """The interface of a family's module.

    Models and processors are opaque to other packages, with two exceptions. If `validate` is to
    check a model's logits, the model is a torch module whose forward returns an output with
    `logits`. If a model computes with graphs, it looks them up by name in the dictionary
    `model.engine.functions` at every call, so that `bench` can time them.

    Attributes:
        forcing: Decodes given tokens, for validation.
        TIED: Maps a parameter of the model to the one with the same values that checkpoints store.
        HEAD: The name of the module that computes the logits.
        BARE: How names begin in a checkpoint that lacks the `prefix`.
        UNUSED: Patterns of stored tensors that only training uses.
        LAYERS: Maps the name of each graph of the static cut to the config's key that counts its
            layers.
    """

    forcing: Forcing
    TIED: Mapping[str, str]
    HEAD: str
    BARE: tuple[str, ...]
    UNUSED: tuple[str, ...]
    LAYERS: Mapping[str, str]

    def architecture(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the config values that, besides the weights' shapes, determine the graphs.

        Args:
            config: The contents of `config.json`.

        Returns:
            Plain data, part of the cache key of a built graph.

        Raises:
            CheckpointError: No model of this family has such a config.
        """
        ...

    def prefix(self, config: dict[str, Any]) -> str:
        """Return how the names of parameters begin, except the head's.

        A model that was saved without its head lacks it.
        """
        ...

    def derived(self, config: dict[str, Any]) -> Mapping[str, Sequence[Derivation]]:
        """Return the parameters that checkpoints store in another form.

        Args:
            config: The contents of `config.json`.

        Returns:
            By the parameter's name in `skeleton`, the forms in which it may be stored. The first
            form with all sources in the checkpoint is used, and its sources are not parameters
            themselves. A parameter stored under its own name is used unchanged.
        """
        ...

    def one_language(self, folder: Path, wanted: str | None) -> OneLanguage | None:
        """Return what a checkpoint of many languages becomes for one of them.

        Args:
            folder: The checkpoint.
            wanted: The language; None: the one that its files name.

        Returns:
            The language; None for a checkpoint that is complete as it is.

        Raises:
            RecipeError: It lacks the wanted language.
            CheckpointError: It names a language that it has not.
        """
        ...

    def skeleton(self, config: dict[str, Any], dtype: torch.dtype = ...) -> nn.Module:
        """Create the model of a config on the `meta` device: shapes without weights.

        Its `state_dict` names the tensors required of a checkpoint, after applying `derived`.

        Args:
            config: The contents of `config.json`.
            dtype: The type in which the model computes.

        Raises:
            CheckpointError: No model of this family has such a config.
        """
        ...

    def graphs(self, model: nn.Module, cache: Cache) -> list[Graph]:
        """Cut a model into the graphs that a target builds.

        Args:
            model: A skeleton, in which a target may have replaced linear modules, and set
                embeddings and convolution kernels to the 16-bit types in which they are stored:
                graphs convert those to the type in which they compute.
            cache: "dynamic" if the model's cache grows from call to call, "static" if it has a
                fixed length, "buffers" if it is written in place in a device's memory, and all
                graphs compute in the skeleton's type. A model without a cache has the same graphs
                for all.
        """
        ...

    def device_graphs(
        self, model: nn.Module, rows: Sequence[int], *, narrow: bool = ...
    ) -> list[Graph | LayeredGraph]:
        """Cut a model into graphs whose steps advance all of their state by themselves.

        They are cut at their layers. A model without steps has the graph of the other cuts.

        Args:
            model: As for `graphs`.
            rows: The numbers of rows for which there are steps.
            narrow: Whether keys and values of the audio are int8.
        """
        ...

    def assemble(
        self,
        folder: Path,
        functions: Mapping[str, GraphFunction],
        cache_dtype: torch.dtype = ...,
        *,
        narrow: bool = ...,
    ) -> Any:
        """Join built graphs into a model that `transcribe` takes.

        Args:
            folder: The artifact, for the configs in it.
            functions: The built graphs by the names of `graphs`, whose inputs and outputs are
                float32, or by those of `device_graphs`.
            cache_dtype: The type of tensors that graphs write in place, and of those between
                graphs of `device_graphs`.
            narrow: As `device_graphs` was given it.

        Raises:
            IntegrityError: The names are not those of `graphs`.
        """
        ...

    def attach_engine(self, model: Any, folder: Path) -> None:
        """Prepare a skeleton with weights for `transcribe`.

        Args:
            model: A skeleton with its weights loaded; its linear modules may be replaced.
            folder: The artifact, for the configs in it.
        """
        ...

    def open_original(self, folder: Path, state: dict[str, Tensor] | None = ...) -> Any:
        """Open a checkpoint in float32 in transformers: the reference of comparisons.

        Args:
            folder: The checkpoint, or a folder with only its companions.
            state: Its weights by their stored names, if transformers cannot read them itself.
        """
        ...

    def processor(self, folder: Path) -> Any:
        """Open a folder's feature extractor and tokenizer.

        Raises:
            CheckpointError: They cannot be read.
        """
        ...

    def sampling_rate(self, processor: Any) -> int:
        """Return the sampling rate in Hz that `transcribe` expects."""
        ...

    def window(self, processor: Any) -> int:
        """Return the samples in a window; longer recordings are decoded in several steps."""
        ...

    def vocabulary(self, processor: Any) -> int:
        """Return the number of tokens that have text."""
        ...

    def tokenizer_files(self, folder: Path) -> dict[str, bytes]:
        """Return the tokenizer's files for loaders that read only `tokenizer.json` of them.

        Args:
            folder: The companions of a checkpoint.

        Returns:
            Files by name; empty if its own are all that there can be.

        Raises:
            RecipeError: No such loader has models like it.
            CheckpointError: The tokenizer cannot be read.
        """
        ...

    def check_processor(self, folder: Path, config: dict[str, Any]) -> None:
        """Check the companions in a folder against the model that a config describes.

        Raises:
            CheckpointError: The feature extractor or tokenizer is another model's.
        """
        ...

    def configs(self, model: Any) -> Configs:
        """Return the configs of an open model, as in its folder."""
        ...

    def text_language(self, configs: Configs, decoding: Decoding, spoken: str | None) -> str | None:
        """Return the language of the transcripts, which decides how words are compared.

        Args:
            configs: The checkpoint's configs.
            decoding: Options that `check_decoding` allows.
            spoken: The code of the language of all recordings, if they share one.

        Returns:
            A code like `en`; None if it is not known.
        """
        ...

    def language_code(self, configs: Configs, name: str) -> str | None:
        """Return the `language` to decode in for recordings whose language data name.

        Args:
            configs: The checkpoint's configs.
            name: A code, a tag like "pt-BR", or an English name.

        Returns:
            A value that `check_decoding` allows; None if the model is not told languages.

        Raises:
            RecipeError: The model lacks that language.
        """
        ...

    def check_decoding(self, configs: Configs, decoding: Decoding) -> None:
        """Check that a checkpoint supports the decoding options.

        Raises:
            RecipeError: The family lacks an option, or the model a language or a task.
            CheckpointError: The configs lack values that decoding needs.
        """
        ...

    def limit_tokens(self, model: Any, tokens: int) -> None:
        """Limit the tokens decoded of a recording to about `tokens`, to save time.

        Models whose audio bounds the length of the text may ignore it.
        """
        ...

    def force_tokens(self, model: Any, tokens: int) -> bool:
        """Make a model decode exactly `tokens` tokens of every window, whatever the audio.

        Returns:
            True if it does. False if the computation depends only on the audio's length, so that
            all windows take equal time anyway.

        Raises:
            RecipeError: The model cannot decode that many.
        """
        ...

    def transcribe(
        self, model: Any, processor: Any, audio: Sequence[Sound], decoding: Decoding
    ) -> list[Transcript]:
        """Transcribe recordings, in order.

        Args:
            model: A model from `assemble`, `attach_engine` or `open_original`.
            processor: The result of `processor`.
            audio: Float32 mono samples in [-1, 1], each of any length, at `sampling_rate`. Long
                files come as `LongAudio`, in blocks.
            decoding: Options that `check_decoding` allows.
        """
        ...
