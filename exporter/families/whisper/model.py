"""A Whisper whose encoder and decoder are built graphs, decoded by transformers' own `generate`.

Only the two forward calls and the cache are ours. Prompt, timestamps rules, beam search and long
recordings are transformers' code, the same for the original and for every artifact.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from exporter.graphs import GraphFunction


class GraphCache(Cache):  # type: ignore[misc]
    """Past tokens of a batch of hypotheses, kept as named tensors with the batch first."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.length = 0
        self.tensors: dict[str, Tensor] = {}
        self.shared: dict[str, Tensor] = {}

    def get_seq_length(self, _layer: int = 0) -> int:
        """The number of tokens already decoded."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow a beam search's choice; `shared` is equal for all beams of a clip, so it stays."""
        self.tensors = {name: t.index_select(0, beam_idx) for name, t in self.tensors.items()}


class Decoder(Protocol):
    """How tokens are decoded against one kind of cache."""

    def step(self, ids: Tensor, encoded: Tensor, cache: GraphCache) -> Tensor:
        """Logits [batch, 1 or tokens, vocabulary] of ids [batch, tokens]; `cache` moves on."""
        ...


class DynamicDecoder:
    """The merged decoder: the self-attention cache comes out of every call one step longer."""

    def __init__(self, run: GraphFunction, config: WhisperConfig) -> None:
        self._run = run
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
        outputs = self._run(inputs, ["logits", *(f"present.{name}" for name in kept)])
        cache.tensors = {name: outputs[f"present.{name}"] for name in self._own}
        if first:
            cache.shared = {name: outputs[f"present.{name}"] for name in self._cross}
        cache.length += ids.shape[1]
        return outputs["logits"]


class StaticDecoder:
    """The one-token decoder: it writes its cache in place, so a prompt goes in token by token."""

    def __init__(self, run: GraphFunction, config: WhisperConfig, dtype: torch.dtype) -> None:
        self._run = run
        self._dtype = dtype
        heads = config.decoder_attention_heads
        self._shape = (heads, config.max_target_positions, config.d_model // heads)
        self._names = [
            f"cache.{i}.{leaf}" for i in range(config.decoder_layers) for leaf in ("key", "value")
        ]

    def step(self, ids: Tensor, encoded: Tensor, cache: GraphCache) -> Tensor:
        if cache.length == 0:
            shape = (ids.shape[0], *self._shape)
            cache.tensors = {name: torch.zeros(shape, dtype=self._dtype) for name in self._names}
        for token in ids.split(1, dim=1):
            inputs = {
                "input_ids": token.contiguous(),
                "position": torch.tensor([cache.length]),
                "cross_cache": encoded,
                **cache.tensors,
            }
            logits = self._run(inputs)["logits"]
            cache.length += 1
        return logits


class _Encoder(nn.Module):
    """The encoder's graph in the place where transformers looks for an encoder."""

    def __init__(self, run: GraphFunction, original: nn.Module) -> None:
        super().__init__()
        self._run = run
        self.conv1, self.conv2 = original.conv1, original.conv2  # `generate` reads their strides

    def forward(self, input_features: Tensor, **_: Any) -> BaseModelOutput:
        outputs = self._run({"input_features": input_features.float().contiguous()})
        return BaseModelOutput(last_hidden_state=next(iter(outputs.values())))


class GraphWhisper(WhisperForConditionalGeneration):  # type: ignore[misc]
    """A `WhisperForConditionalGeneration` without weights of its own, for `generate`."""

    def __init__(
        self,
        config: WhisperConfig,
        generation_config: GenerationConfig,
        encoder: GraphFunction,
        decoder: Decoder,
    ) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.generation_config = generation_config
        self.model.encoder = _Encoder(encoder, self.model.encoder)
        self._decoder = decoder
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
        cache = GraphCache() if past_key_values is None else past_key_values
        encoded = encoder_outputs[0]
        logits = self._decoder.step(decoder_input_ids, encoded, cache)
        return Seq2SeqLMOutput(
            logits=logits, past_key_values=cache, encoder_last_hidden_state=encoded
        )

    def _prepare_cache_for_generation(
        self, _config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> bool:
        """Give `generate` our cache instead of transformers' layers of tensors."""
        return model_kwargs.setdefault("past_key_values", GraphCache()) is not None

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
    decoder: Decoder
    if "decoder_model_merged" in functions:
        encoder = functions["encoder_model"]
        decoder = DynamicDecoder(functions["decoder_model_merged"], config)
    else:
        encoder = functions["encoder"]
        decoder = StaticDecoder(functions["decoder"], config, cache_dtype)
    return GraphWhisper(config, generation_config, encoder, decoder)
