"""A Whisper whose encoder and decoder are built graphs, for `generate` and for the lean loops.

For `generate`, only the two forward calls and the cache are ours. Prompt, timestamps rules, beam
search and long recordings are transformers' code then, the same for the original and for every
artifact.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from exporter.families.whisper.cache import GraphCache
from exporter.families.whisper.lean import Decoder, Engine
from exporter.families.whisper.static_decoder import StaticDecoder
from exporter.graphs import GraphFunction


class _Repeating:
    """What decoders have in common that take the audio's cache once per row."""

    def start(self) -> GraphCache:
        return GraphCache()

    def spread(self, encoded: Tensor, cache: GraphCache, beams: int) -> Tensor:
        cache.tensors = {n: t.repeat_interleave(beams, 0) for n, t in cache.tensors.items()}
        cache.shared = {n: self._repeat(t, beams) for n, t in cache.shared.items()}
        return self._repeat(encoded, beams)

    def _repeat(self, tensor: Tensor, beams: int) -> Tensor:
        return tensor.repeat_interleave(beams, 0)

    def finish(self, cache: GraphCache) -> None:
        """Nothing is kept for the next window."""


class DynamicDecoder(_Repeating):
    """The merged decoder: the self-attention cache comes out of every call one step longer."""

    def __init__(self, functions: Mapping[str, GraphFunction], config: WhisperConfig) -> None:
        self._functions = functions
        heads = config.decoder_attention_heads
        self._empty_shape = (heads, 0, config.d_model // heads)
        parts = [(i, leaf) for i in range(config.decoder_layers) for leaf in ("key", "value")]
        self._own = [f"{i}.decoder.{leaf}" for i, leaf in parts]
        self._cross = [f"{i}.encoder.{leaf}" for i, leaf in parts]

    def step(self, ids: Tensor, encoded: Tensor, cache: GraphCache) -> Tensor:
        first = cache.length == 0
        if first:
            empty = torch.zeros((ids.shape[0], *self._empty_shape))
            cache.tensors = dict.fromkeys(self._own, empty)
            cache.shared = dict.fromkeys(self._cross, empty)
        past = {**cache.tensors, **cache.shared}
        inputs = {
            "input_ids": ids.contiguous(),
            "encoder_hidden_states": encoded,
            "use_cache_branch": torch.tensor([not first]),
            **{f"past_key_values.{name}": tensor for name, tensor in past.items()},
        }
        kept = self._own + self._cross if first else self._own
        wanted = ["logits", *(f"present.{name}" for name in kept)]
        outputs = self._functions["decoder_model_merged"](inputs, wanted)
        cache.tensors = {name: outputs[f"present.{name}"] for name in self._own}
        if first:
            cache.shared = {name: outputs[f"present.{name}"] for name in self._cross}
        cache.length += ids.shape[1]
        return outputs["logits"]

    def _repeat(self, tensor: Tensor, beams: int) -> Tensor:
        # The audio of one window alone broadcasts over its hypotheses, without a copy.
        return tensor if len(tensor) == 1 else super()._repeat(tensor, beams)


class _Encoder(nn.Module):
    """The encoder's graph in the place where transformers looks for an encoder."""

    def __init__(self, engine: Engine, original: nn.Module) -> None:
        super().__init__()
        self._engine = engine
        self.conv1, self.conv2 = original.conv1, original.conv2  # `generate` reads their strides

    def forward(self, input_features: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self._engine.encode(input_features))


class GraphWhisper(WhisperForConditionalGeneration):  # type: ignore[misc]
    """A `WhisperForConditionalGeneration` without weights of its own; its `engine` computes."""

    def __init__(
        self, config: WhisperConfig, generation_config: GenerationConfig, engine: Engine
    ) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.generation_config = generation_config
        self.model.encoder = _Encoder(engine, self.model.encoder)
        self.engine = engine
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where inputs are expected: graphs take their tensors from the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features; what is inside the graphs is their own affair."""
        return torch.float32

    def forward(
        self,
        input_features: Tensor | None = None,
        *,
        decoder_input_ids: Tensor,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: GraphCache | None = None,
        decoder_attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Logits of the next tokens; the rest of transformers' arguments has no meaning here."""
        if decoder_attention_mask is not None and not decoder_attention_mask.all():
            msg = "prompts of different lengths in one batch are not supported: use batch_size 1"
            raise NotImplementedError(msg)
        if encoder_outputs is None:
            encoder_outputs = self.model.encoder(input_features)
        cache = self.engine.decoder.start() if past_key_values is None else past_key_values
        encoded = encoder_outputs[0]
        logits = self.engine.decoder.step(decoder_input_ids, encoded, cache)
        return Seq2SeqLMOutput(
            logits=logits, past_key_values=cache, encoder_last_hidden_state=encoded
        )

    def _prepare_cache_for_generation(
        self, _config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> bool:
        """Give `generate` our cache instead of transformers' layers of tensors."""
        return model_kwargs.setdefault("past_key_values", self.engine.decoder.start()) is not None

    def _reorder_cache(self, past_key_values: GraphCache, beam_idx: Tensor) -> GraphCache:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values


def assemble(
    config: WhisperConfig,
    generation_config: GenerationConfig,
    functions: Mapping[str, GraphFunction],
    cache_dtype: torch.dtype,
) -> GraphWhisper:
    """Join built graphs into a model; their names tell which cut of Whisper they are."""
    named = dict(functions)
    decoder: Decoder
    if "decoder_model_merged" in named:
        encoder, decoder = "encoder_model", DynamicDecoder(named, config)
    else:
        encoder, decoder = "encoder", StaticDecoder(named, config, cache_dtype)
    return GraphWhisper(config, generation_config, Engine(named, encoder, decoder))
