"""A Whisper whose encoder and decoder are built graphs, for `generate` and for pipelines.

Only the two forward calls and the cache are ours. Our own transcription takes the `engine` instead,
which `exporter.runtime.whisper` decodes with. What graphs do not compute, such as attention
weights, is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, ModelOutput, Seq2SeqLMOutput
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from exporter.errors import RecipeError
from exporter.families.graph import GraphFunction, recorded
from exporter.families.whisper.engine.cache import CACHE, GraphCache
from exporter.families.whisper.engine.device import ENCODED, DeviceDecoder
from exporter.families.whisper.engine.engine import Decoder, Engine
from exporter.families.whisper.engine.static_decoder import StaticDecoder
from exporter.families.whisper.engine.step_decoder import StepDecoder

DECODERS = ("step", "decoder", "prompt")  # graphs' names, one in each cut


@dataclass
class CrossCache(BaseModelOutput):  # type: ignore[misc]
    """The result of an encoder that gives the decoder's keys and values, not hidden states."""

    cross_cache: Tensor | None = None


class _Encoder(nn.Module):
    """The encoder's graph as the encoder module of transformers."""

    def __init__(self, engine: Engine, original: Any, config: WhisperConfig) -> None:
        super().__init__()
        self._engine = engine
        self.conv1, self.conv2 = original.conv1, original.conv2  # `generate` reads their strides
        frames = config.max_source_positions * original.conv1.stride[0] * original.conv2.stride[0]
        self._window = (config.num_mel_bins, frames)

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - the original ignores it too
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor]:
        _refuse_unsupported(
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        if input_features.shape[1:] != self._window:
            mels, frames = self._window
            msg = (
                f"input_features is {list(input_features.shape)}: "
                f"this model takes [windows, {mels}, {frames}]"
            )
            raise RecipeError(msg)
        encoded = self._engine.encode(input_features)
        if return_dict is False:
            return (encoded,)
        if self._engine.decoder.takes_hidden_states:
            return BaseModelOutput(last_hidden_state=encoded)
        return CrossCache(cross_cache=encoded)


class GraphWhisper(WhisperForConditionalGeneration):  # type: ignore[misc]
    """A `WhisperForConditionalGeneration` without weights of its own; its `engine` computes."""

    def __init__(
        self, config: WhisperConfig, generation_config: GenerationConfig, engine: Engine
    ) -> None:
        with torch.device("meta"):
            super().__init__(config)
        self.generation_config = generation_config
        self.model.encoder = _Encoder(engine, self.model.encoder, config)
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

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as transformers does; see `WhisperForConditionalGeneration.generate`.

        Raises:
            RecipeError: The request needs what the graphs do not give.
        """
        settings = kwargs.get("generation_config")
        if getattr(settings, "is_assistant", False):
            msg = "an artifact of graphs cannot be an `assistant_model`: it can have one"
            raise RecipeError(msg)
        assistant = kwargs.get("assistant_model")
        if assistant is not None and not assistant.config.is_encoder_decoder:
            self._require_hidden_states()  # it would take them from our encoder
        if kwargs.get("encoder_outputs") is not None:
            self._require_hidden_states()
        return super().generate(*args, **kwargs)

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - the original ignores it too
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: GraphCache | None = None,
        cache: GraphCache | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Return the logits after each token, and the loss of `labels`, as the original.

        Arguments have the names of all supported releases of transformers, whose order differs.

        Raises:
            RecipeError: An argument asks for what the graphs do not compute.
        """
        _refuse_unsupported(
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        past = self._cache(past_key_values if cache is None else cache)
        ids = self._ids(decoder_input_ids, labels, past)
        _require_usual(ids, past, decoder_attention_mask, decoder_position_ids, cache_position)
        encoded = self._encoded(input_features, encoder_outputs)
        logits = self.engine.step(ids, encoded, past)
        loss = None
        if labels is not None:
            targets = labels.to(logits.device).reshape(-1)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets)
        output = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            encoder_last_hidden_state=(
                encoded if self.engine.decoder.takes_hidden_states else None
            ),
            **{CACHE: None if use_cache is False else past},
        )
        return output.to_tuple() if return_dict is False else output

    def _cache(self, past: Any) -> GraphCache:
        """Return the cache to continue: `past`, or an empty one."""
        if past is None:
            return self.engine.decoder.start()  # type: ignore[no-any-return]
        if not isinstance(past, GraphCache):
            msg = (
                f"`{CACHE}` is a {type(past).__name__}: an artifact of graphs takes only its own, "
                "from an earlier call"
            )
            raise RecipeError(msg)
        return past

    def _ids(self, ids: Tensor | None, labels: Tensor | None, cache: GraphCache) -> Tensor:
        """Return the tokens to decode: without `ids`, the labels after a start token."""
        if ids is None and labels is not None:
            config = self.config
            ids = shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)
        if ids is None:
            msg = "give `decoder_input_ids` or `labels`"
            raise RecipeError(msg)
        places = self.config.max_target_positions
        if cache.length + ids.shape[1] > places:
            msg = f"{cache.length + ids.shape[1]} tokens: this model decodes at most {places}"
            raise RecipeError(msg)
        if bool(((ids < 0) | (ids >= self.config.vocab_size)).any()):
            msg = f"`decoder_input_ids` go beyond a vocabulary of {self.config.vocab_size}"
            raise RecipeError(msg)
        return ids.to(self.device)

    def _encoded(self, features: Tensor | None, outputs: Any) -> Tensor:
        """Return what the encoder gave, running it if need be."""
        if outputs is None and features is None:
            msg = "give `input_features` or `encoder_outputs`"
            raise RecipeError(msg)
        if outputs is None:
            outputs = self.model.encoder(features)
        encoded: Tensor = outputs[0]
        if encoded.is_floating_point():
            self._require_hidden_states()
        return encoded

    def _require_hidden_states(self) -> None:
        if not self.engine.decoder.takes_hidden_states:
            msg = (
                "the encoder of this artifact gives keys and values, not hidden states: pass "
                "`input_features` instead of `encoder_outputs`, and an assistant with an encoder"
            )
            raise RecipeError(msg)

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        """Give `generate` our cache, also with `use_cache=False`, which changes no result."""
        generation_config.use_cache = model_kwargs["use_cache"] = True
        if model_kwargs.get(CACHE) is None:
            model_kwargs[CACHE] = self.engine.decoder.start()

    def _postprocess_outputs(self, seek_outputs: Any, *args: Any, **named: Any) -> Any:
        """Leave out our cache, which transformers would divide among recordings as its own."""
        if isinstance(seek_outputs, ModelOutput):
            kept = {name: value for name, value in seek_outputs.items() if name != CACHE}
            seek_outputs = type(seek_outputs)(**kept)
        return super()._postprocess_outputs(seek_outputs, *args, **named)

    def _reorder_cache(self, cache: GraphCache, beam_idx: Tensor) -> GraphCache:
        cache.reorder_cache(beam_idx)
        return cache


def _refuse_unsupported(**arguments: Any) -> None:
    """Raise RecipeError for arguments of the original that graphs cannot follow."""
    given = [name for name, value in arguments.items() if value is not None and value is not False]
    if given:
        msg = (
            f"an artifact of graphs does not support {', '.join(given)}: take torch-int8 or "
            "`exporter.load_original`"
        )
        if "output_attentions" in given:
            msg += "\n(timestamps of words: `word_timestamps=True` of `Recogniser.transcribe`)"
        raise RecipeError(msg)


def _require_usual(
    ids: Tensor, cache: GraphCache, mask: Tensor | None, *positions: Tensor | None
) -> None:
    """Refuse masked tokens, and tokens elsewhere than after those in the cache."""
    if mask is not None and not mask.all():
        msg = (
            "prompts of different lengths in one batch are not supported by an artifact of graphs: "
            "decode the recordings one by one"
        )
        raise RecipeError(msg)
    usual = torch.arange(cache.length, cache.length + ids.shape[1], device=ids.device)
    if any(given is not None and bool((given != usual).any()) for given in positions):
        msg = (
            f"an artifact of graphs decodes the token at position {cache.length} next: give no "
            "`decoder_position_ids` and no `cache_position`"
        )
        raise RecipeError(msg)


def assemble(
    config: WhisperConfig,
    generation_config: GenerationConfig,
    functions: Mapping[str, GraphFunction],
    cache_dtype: torch.dtype,
    *,
    narrow: bool,
) -> GraphWhisper:
    """Join built graphs into a model; their names identify the cut of Whisper.

    Args:
        config: The model's config.
        generation_config: Its settings of `generate`.
        functions: The built graphs by name.
        cache_dtype: The type of caches that graphs write in place.
        narrow: Whether those of `device_graphs` keep the audio's keys and values in int8.

    Raises:
        IntegrityError: The names are those of no cut.
    """
    named = dict(functions)
    decoder: Decoder
    if "prompt" in named:
        device = named["prompt"].device
        named = {name: recorded(function) for name, function in named.items()}
        decoder = DeviceDecoder(named, config, cache_dtype, device, narrow=narrow)
        engine = Engine(named, "encoder", decoder, device, batch=ENCODED)
        return GraphWhisper(config, generation_config, engine)
    if "step" in named:
        encoder, device = "encoder_model", named["step"].device
        decoder = StepDecoder(named, config, device)
    else:
        encoder, device = "encoder", named["decoder"].device
        decoder = StaticDecoder(named, config, cache_dtype, device)
    return GraphWhisper(config, generation_config, Engine(named, encoder, decoder, device))
