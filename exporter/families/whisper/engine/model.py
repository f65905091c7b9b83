"""A Whisper whose encoder and decoder are built graphs, for `generate` and the decoding loops.

For `generate`, only the two forward calls and the cache are ours. Prompt, timestamp rules, beam
search and long recordings are then transformers' code, the same for the original and for every
artifact.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from exporter.families.graph import GraphFunction
from exporter.families.whisper.decoding.loop import Decoder, Engine
from exporter.families.whisper.engine.cache import GraphCache
from exporter.families.whisper.engine.static_decoder import StaticDecoder
from exporter.families.whisper.engine.step_decoder import StepDecoder

DECODERS = {"step", "decoder"}  # graphs' names, one in each cut


class _Encoder(nn.Module):
    """The encoder's graph as the encoder module of transformers."""

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
        """The device of inputs: that of the graphs."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features, whatever the types inside the graphs."""
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
        """Return the logits of the next tokens; other arguments of transformers have no effect."""
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
    """Join built graphs into a model; their names identify the cut of Whisper.

    Raises:
        IntegrityError: The names are those of no cut.
    """
    named = dict(functions)
    decoder: Decoder
    if "step" in named:
        encoder, device = "encoder_model", named["step"].device
        decoder = StepDecoder(named, config, device)
    else:
        encoder, device = "encoder", named["decoder"].device
        decoder = StaticDecoder(named, config, cache_dtype, device)
    return GraphWhisper(config, generation_config, Engine(named, encoder, decoder, device))
