"""The keys that a Whisper's configs may have, each with limits above those of any real model.

These are allowlists: other keys are dropped before anything is constructed. transformers checks
neither. It would import a package that a key names, create a billion layers one by one before it
reads weights, and allocate a window of a terabyte. To accept one more key, add one line.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from exporter.formats.config_limits import Limits
from exporter.formats.tokenizer_limits import Name, SpecialTokens, Tokenizer

_Layers = Annotated[int, Field(ge=1, le=128)]
_Width = Annotated[int, Field(ge=4, le=1 << 17, multiple_of=2)]  # half of it are sines
_Inner = Annotated[int, Field(ge=1, le=1 << 17)]
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Positions = Annotated[int, Field(ge=1, le=1 << 17)]
_Count = Annotated[int, Field(ge=0, le=1 << 20)]
_Some = Annotated[int, Field(ge=1, le=1024)]
_Real = Annotated[float, Field(ge=-1e6, le=1e6)]
_Number = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]  # a token's, which may be -1 for none
_Numbers = Annotated[list[_Number], Field(max_length=1 << 20)]
_Named = Annotated[dict[Name, _Number], Field(max_length=1 << 12)]
_Label = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]
_Activation = Literal["gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "silu", "swish"]


def _nothing(value: Any) -> Any:
    if value:
        msg = "Input should be empty or false"
        raise ValueError(msg)
    return value


_Nothing = Annotated[Any, AfterValidator(_nothing)]


class _Whisper(Limits):
    model_config = ConfigDict(title="Whisper")


class _Decoding(_Whisper):
    """What both files may say of decoding; old checkpoints have it in `config.json`."""

    max_length: _Count | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    min_length: _Count | None = None
    min_new_tokens: _Count | None = None
    max_time: Annotated[float, Field(ge=0, le=1e9)] | None = None
    stop_strings: Name | list[Name] | None = None
    do_sample: bool | None = None
    early_stopping: bool | Literal["never"] | None = None
    num_beams: _Some | None = None
    num_return_sequences: _Some | None = None
    temperature: _Real | list[_Real] | None = None
    top_k: _Count | None = None
    top_p: _Real | None = None
    min_p: _Real | None = None
    typical_p: _Real | None = None
    epsilon_cutoff: _Real | None = None
    eta_cutoff: _Real | None = None
    repetition_penalty: _Real | None = None
    encoder_repetition_penalty: _Real | None = None
    length_penalty: _Real | None = None
    guidance_scale: _Real | None = None
    exponential_decay_length_penalty: list[_Number | _Real] | None = None
    no_repeat_ngram_size: _Count | None = None
    encoder_no_repeat_ngram_size: _Count | None = None
    prompt_lookup_num_tokens: _Some | None = None
    bad_words_ids: list[_Numbers] | None = None
    forced_bos_token_id: _Number | None = None
    forced_eos_token_id: _Number | _Numbers | None = None
    forced_decoder_ids: list[list[_Number | None]] | None = None
    suppress_tokens: _Numbers | None = None
    begin_suppress_tokens: _Numbers | None = None
    remove_invalid_values: bool | None = None
    renormalize_logits: bool | None = None
    use_cache: bool | None = None
    bos_token_id: _Number | None = None
    eos_token_id: _Number | Annotated[_Numbers, Field(min_length=1)] | None = None
    pad_token_id: _Number | None = None
    decoder_start_token_id: _Number | None = None
    median_filter_width: Annotated[int, Field(ge=1, le=1024)] | None = None
    transformers_version: Name | None = None
    # Searches that transformers moved to repositories, whose code it would run.
    num_beam_groups: Annotated[Literal[1] | None, Field(exclude=True)] = None
    penalty_alpha: Annotated[_Nothing, Field(exclude=True)] = None
    dola_layers: Annotated[_Nothing, Field(exclude=True)] = None
    constraints: Annotated[_Nothing, Field(exclude=True)] = None
    force_words_ids: Annotated[_Nothing, Field(exclude=True)] = None


_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": "encoder_attention_heads",
}


class _Config(_Decoding):
    """`config.json`; the defaults are those of transformers."""

    model_type: Literal["whisper"] = "whisper"
    architectures: list[Name] | None = None
    is_encoder_decoder: Literal[True] = True
    vocab_size: Annotated[int, Field(ge=1, le=1 << 22)] = 51865
    num_mel_bins: Annotated[int, Field(ge=1, le=1024)] = 80
    d_model: _Width = 384
    encoder_layers: _Layers = 4
    decoder_layers: _Layers = 4
    encoder_attention_heads: _Heads = 6
    decoder_attention_heads: _Heads = 6
    encoder_ffn_dim: _Inner = 1536
    decoder_ffn_dim: _Inner = 1536
    max_source_positions: _Positions = 1500
    max_target_positions: _Positions = 448
    activation_function: _Activation = "gelu"
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: _Number | None = 50256
    # Not used for transcription, but of a size that transformers would create.
    num_hidden_layers: Annotated[_Layers | None, Field(exclude=True)] = None
    num_labels: Annotated[int | None, Field(exclude=True, ge=0, le=1 << 16)] = None
    id2label: Annotated[dict[_Label, Name] | None, Field(exclude=True)] = None
    label2id: Annotated[dict[Name, int] | None, Field(exclude=True)] = None
    pruned_heads: Annotated[_Nothing, Field(exclude=True)] = None
    tie_encoder_decoder: Annotated[_Nothing, Field(exclude=True)] = None

    @model_validator(mode="before")
    @classmethod
    def _without_aliases(cls, values: Any) -> Any:
        """Replace transformers' other names, of which the last would win."""
        values = dict(values)
        for alias, name in _ALIASES.items():
            if alias in values and values.setdefault(name, values[alias]) != values.pop(alias):
                msg = f"`{alias}` and `{name}` differ"
                raise ValueError(msg)
        return values

    @model_validator(mode="after")
    def _fits(self) -> "_Config":
        for heads in (self.encoder_attention_heads, self.decoder_attention_heads):
            if self.d_model % heads:
                msg = f"d_model ({self.d_model}) is no multiple of the {heads} attention heads"
                raise ValueError(msg)
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            msg = f"pad_token_id ({self.pad_token_id}) is none of {self.vocab_size} tokens"
            raise ValueError(msg)
        for name in ("eos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and not 0 <= token < self.vocab_size:
                    msg = f"{name} ({token}) is none of {self.vocab_size} tokens"
                    raise ValueError(msg)
        return self


class _Generation(_Decoding):
    """`generation_config.json`."""

    lang_to_id: _Named | None = None
    task_to_id: _Named | None = None
    language: Name | list[Name] | None = None
    task: Name | None = None
    is_multilingual: bool | None = None
    no_timestamps_token_id: _Number | None = None
    prev_sot_token_id: _Number | None = None
    return_timestamps: bool | None = None
    max_initial_timestamp_index: _Count | None = None
    alignment_heads: list[list[_Count]] | None = None
    condition_on_prev_tokens: bool | None = None
    prompt_condition_type: Name | None = None
    compression_ratio_threshold: _Real | None = None
    logprob_threshold: _Real | None = None
    no_speech_threshold: _Real | None = None
    from_model: bool | None = Field(default=None, alias="_from_model_config")


class _Extractor(_Whisper):
    """The feature extractor; its lengths in samples and frames follow from the others."""

    feature_extractor_type: Name | None = None
    feature_size: Annotated[int, Field(ge=1, le=1024)] = 80
    sampling_rate: Annotated[int, Field(ge=1_000, le=768_000)] = 16_000
    hop_length: Annotated[int, Field(ge=1, le=1 << 14)] = 160
    n_fft: Annotated[int, Field(ge=2, le=1 << 14)] = 400
    chunk_length: Annotated[int, Field(ge=1, le=600)] = 30
    padding_value: _Real = 0.0
    padding_side: Literal["right", "left"] | None = None
    dither: Annotated[float, Field(ge=0, le=1)] = 0.0
    return_attention_mask: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _inner(cls, values: Any) -> Any:
        """Return the object that transformers uses, which may be an inner one."""
        return values.get("feature_extractor", values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _fits(self) -> "_Extractor":
        if self.chunk_length * self.sampling_rate > 1 << 24:
            msg = f"a window of {self.chunk_length} s at {self.sampling_rate} Hz is too long"
            raise ValueError(msg)
        if self.hop_length > self.n_fft:
            msg = f"hop_length ({self.hop_length}) is longer than a frame of {self.n_fft}"
            raise ValueError(msg)
        return self


class _SpecialTokens(SpecialTokens, _Whisper):
    """`special_tokens_map.json`."""


class _Tokenizer(Tokenizer, _Whisper):
    """`tokenizer_config.json`."""

    add_prefix_space: bool | None = None
    errors: Literal["strict", "ignore", "replace"] | None = None
    language: Name | None = None
    task: Name | None = None
    predict_timestamps: bool | None = None
    padding_side: Literal["right", "left"] | None = None
    truncation_side: Literal["right", "left"] | None = None
    return_attention_mask: bool | None = None
    split_special_tokens: bool | None = None


CONFIGS: Mapping[str, type[Limits]] = {
    "config.json": _Config,
    "generation_config.json": _Generation,
    "preprocessor_config.json": _Extractor,
    "tokenizer_config.json": _Tokenizer,
    "special_tokens_map.json": _SpecialTokens,
}
