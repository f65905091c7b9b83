"""The keys that a CTC model's configs may have, each with limits above those of any real model.

These are allowlists: other keys are dropped before anything is constructed. To accept one more
key, add one line.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from exporter.formats.config_limits import Limits
from exporter.formats.tokenizer_limits import AnyToken, Name, SpecialTokens, Tokenizer
from exporter.runtime.ctc.features import receptive_field

SPEECHBRAIN = "speechbrain-wav2vec2-ctc"
_OF_SAMPLES = (
    *("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat", "wavlm"),
    *("wav2vec2-conformer", SPEECHBRAIN),
)

_Layers = Annotated[int, Field(ge=1, le=128)]
_Width = Annotated[int, Field(ge=1, le=1 << 16)]
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Kernel = Annotated[int, Field(ge=1, le=4096)]
_Convolutions = Annotated[list[_Kernel], Field(min_length=1, max_length=32)]
_Channels = Annotated[list[_Width], Field(min_length=1, max_length=32)]
_Activation = Literal["gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "silu", "swish"]

_NONE_OF_THEM = "position_embeddings_type"  # null says that a conformer has no positions
_MOST_SAMPLES = 1 << 16  # of a frame's receptive field: four seconds


class _Ctc(Limits):
    model_config = ConfigDict(title="CTC model")


class _Model(_Ctc):
    """`config.json`; the defaults are those of transformers, or None where model types differ."""

    model_type: Name
    architectures: list[Name] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)] = 32
    hidden_size: _Width = 768
    num_hidden_layers: _Layers = 12
    num_attention_heads: _Heads = 12
    intermediate_size: _Width = 3072
    hidden_act: _Activation = "gelu"
    layer_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    pad_token_id: Annotated[int, Field(ge=0, lt=1 << 20)] | None = None
    transformers_version: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Leave out what a file says nothing about."""
        return {
            name: value
            for name, value in dict(values).items()
            if value is not None or name == _NONE_OF_THEM
        }

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            msg = (
                f"hidden_size ({self.hidden_size}) is no multiple of the "
                f"{self.num_attention_heads} attention heads"
            )
            raise ValueError(msg)
        return self


class _OfSamples(_Model):
    """Models with a stack of convolutions over raw samples."""

    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: _Activation = "gelu"
    conv_dim: _Channels = Field(default=[512, 512, 512, 512, 512, 512, 512])
    conv_stride: _Convolutions = Field(default=[5, 2, 2, 2, 2, 2, 2])
    conv_kernel: _Convolutions = Field(default=[10, 3, 3, 3, 3, 2, 2])
    conv_bias: bool = False
    num_conv_pos_embeddings: _Kernel | None = None
    num_conv_pos_embedding_groups: _Heads = 16
    conv_pos_kernel_size: _Kernel | None = None
    conv_pos_batch_norm: bool | None = None
    feat_proj_layer_norm: bool | None = None
    do_stable_layer_norm: bool | None = None
    adapter_attn_dim: _Width | None = None
    num_buckets: Annotated[int, Field(ge=4, le=1 << 16)] | None = None
    max_bucket_distance: Annotated[int, Field(ge=2, le=1 << 20)] | None = None
    position_embeddings_type: Literal["relative", "rotary"] | None = None
    rotary_embedding_base: Annotated[int, Field(ge=2, le=1 << 30)] | None = None
    conv_depthwise_kernel_size: _Kernel | None = None
    target_lang: Name | None = None  # of many, the one that an artifact is of
    # What is around the encoder of SpeechBrain's models.
    normalize_samples: bool | None = None
    output_norm: bool | None = None
    head_widths: _Channels | None = None
    # A stack of strided convolutions on top, for other kinds of models.
    add_adapter: Annotated[Literal[False] | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        own = (self.normalize_samples, self.output_norm, self.head_widths)
        if self.model_type == SPEECHBRAIN and None in own:
            msg = "no normalize_samples, output_norm or head_widths"
            raise ValueError(msg)
        lengths = {len(each) for each in (self.conv_dim, self.conv_stride, self.conv_kernel)}
        if len(lengths) > 1:
            msg = "conv_dim, conv_stride and conv_kernel have different lengths"
            raise ValueError(msg)
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            msg = (
                f"hidden_size ({self.hidden_size}) is no multiple of the "
                f"{self.num_conv_pos_embedding_groups} groups of its positional convolution"
            )
            raise ValueError(msg)
        if (self.num_buckets or 320) // 4 >= (self.max_bucket_distance or 800):
            msg = "max_bucket_distance is not above a quarter of num_buckets"
            raise ValueError(msg)
        if receptive_field(self.conv_kernel, self.conv_stride) > _MOST_SAMPLES:
            msg = f"a frame of more than {_MOST_SAMPLES} samples"
            raise ValueError(msg)
        return self


class _Bert(_Model):
    """wav2vec2-bert, on rows of filter banks."""

    hidden_size: _Width = 1024
    num_hidden_layers: _Layers = 24
    num_attention_heads: _Heads = 16
    intermediate_size: _Width = 4096
    hidden_act: _Activation = "swish"
    feature_projection_input_dim: Annotated[int, Field(ge=2, le=4096)] = 160
    position_embeddings_type: Literal["relative_key", "relative", "rotary"] | None = None
    rotary_embedding_base: Annotated[int, Field(ge=2, le=1 << 30)] | None = None
    left_max_position_embeddings: Annotated[int, Field(ge=0, le=1 << 16)] = 64
    right_max_position_embeddings: Annotated[int, Field(ge=0, le=1 << 16)] = 8
    conv_depthwise_kernel_size: _Kernel = 31
    add_adapter: bool = False
    adapter_kernel_size: Literal[3] = 3
    adapter_stride: Literal[2] = 2
    num_adapter_layers: Annotated[int, Field(ge=1, le=8)] = 1
    adapter_act: _Activation = "relu"
    use_intermediate_ffn_before_adapter: bool = False
    output_hidden_size: _Width | None = None


class _ParakeetEncoder(_Ctc):
    """The object `encoder_config` of Parakeet's config."""

    hidden_size: _Width = 1024
    num_hidden_layers: _Layers = 24
    num_attention_heads: _Heads = 8
    intermediate_size: _Width = 4096
    hidden_act: _Activation = "silu"
    attention_bias: bool = True
    conv_kernel_size: _Kernel = 9
    subsampling_factor: Literal[2, 4, 8, 16] = 8
    subsampling_conv_channels: _Width = 256
    subsampling_conv_kernel_size: Literal[3] = 3
    subsampling_conv_stride: Literal[2] = 2
    num_mel_bins: Annotated[int, Field(ge=1, le=256)] = 80
    scale_input: bool = True
    max_position_embeddings: Annotated[int, Field(ge=1, le=1 << 20)] = 5000

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            msg = (
                f"hidden_size ({self.hidden_size}) is no multiple of the "
                f"{self.num_attention_heads} attention heads"
            )
            raise ValueError(msg)
        if self.num_mel_bins % self.subsampling_factor:
            msg = "num_mel_bins is no multiple of subsampling_factor"
            raise ValueError(msg)
        return self


class _Parakeet(_Ctc):
    """Parakeet, whose encoder has an object of its own; the number of layers is here, too."""

    model_type: Name
    architectures: list[Name] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)] = 1025
    pad_token_id: Annotated[int, Field(ge=0, lt=1 << 20)] = 1024
    num_hidden_layers: _Layers
    encoder_config: _ParakeetEncoder
    transformers_version: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_layers(cls, values: Any) -> Any:
        """Give both objects the number of layers, which a caller may have changed in the outer."""
        inner = values.get("encoder_config") or {}
        if not isinstance(inner, Mapping):
            return values
        layers = values.get("num_hidden_layers") or inner.get("num_hidden_layers") or 24
        whole = {**values, "num_hidden_layers": layers}
        return {**whole, "encoder_config": {**inner, "num_hidden_layers": layers}}


_MODELS: Mapping[str, type[Limits]] = {
    **dict.fromkeys(_OF_SAMPLES, _OfSamples),
    "wav2vec2-bert": _Bert,
    "parakeet_ctc": _Parakeet,
}
MODEL_TYPES = tuple(_MODELS)


class _Config(_Ctc):
    """`config.json`, whose keys depend on its `model_type`."""

    model_type: Name

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_type(cls, values: Any, handler: Any) -> Any:
        """Return the limits of the model's type."""
        own = handler({"model_type": values.get("model_type")})
        if own.model_type not in _MODELS:
            msg = f"model_type {own.model_type!r:.60} is not one of: {', '.join(_MODELS)}"
            raise ValueError(msg)
        return _MODELS[own.model_type].model_validate(values)


class _SampleExtractor(_Ctc):
    """The settings of Wav2Vec2FeatureExtractor."""

    feature_extractor_type: Name | None = None
    feature_size: Literal[1] = 1
    sampling_rate: Annotated[int, Field(ge=1_000, le=768_000)] = 16_000
    padding_value: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    padding_side: Literal["right", "left"] | None = None
    do_normalize: bool = True
    return_attention_mask: bool | None = None


class _FbankExtractor(_Ctc):
    """The settings of SeamlessM4TFeatureExtractor, whose windows are of 25 ms at 16 kHz."""

    feature_extractor_type: Literal["SeamlessM4TFeatureExtractor"]
    feature_size: Annotated[int, Field(ge=1, le=4096)] = 80
    num_mel_bins: Annotated[int, Field(ge=1, le=256)] = 80
    sampling_rate: Literal[16_000] = 16_000
    padding_value: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    padding_side: Literal["right"] = "right"
    stride: Literal[2] = 2


class _LogMelExtractor(_Ctc):
    """The settings of ParakeetFeatureExtractor."""

    feature_extractor_type: Literal["ParakeetFeatureExtractor"]
    feature_size: Annotated[int, Field(ge=1, le=256)] = 80
    sampling_rate: Literal[16_000] = 16_000
    hop_length: Literal[160] = 160
    n_fft: Literal[512] = 512
    win_length: Literal[400] = 400
    preemphasis: Annotated[float, Field(ge=0, le=1)] | None = 0.97
    padding_value: Annotated[float, Field(ge=0, le=0)] = 0.0
    padding_side: Literal["right"] = "right"


_EXTRACTORS: Mapping[Any, type[Limits]] = {
    "SeamlessM4TFeatureExtractor": _FbankExtractor,
    "ParakeetFeatureExtractor": _LogMelExtractor,
}


class _Extractor(_Ctc):
    """`preprocessor_config.json`, whose keys depend on its `feature_extractor_type`."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_type(cls, values: Any, _handler: Any) -> Any:
        """Return the limits of the object that transformers uses, which may be an inner one."""
        own = values.get("feature_extractor", values) if isinstance(values, Mapping) else values
        kind = own.get("feature_extractor_type") if isinstance(own, Mapping) else None
        limits = _EXTRACTORS.get(kind) if isinstance(kind, str) else None
        return (limits or _SampleExtractor).model_validate(own)


class _SpecialTokens(SpecialTokens, _Ctc):
    """`special_tokens_map.json`."""


class _Tokenizer(Tokenizer, _Ctc):
    """`tokenizer_config.json`."""

    do_lower_case: bool | None = None
    replace_word_delimiter_char: Name | None = None
    target_lang: Name | None = None
    word_delimiter_token: AnyToken | None = None


CONFIGS: Mapping[str, type[Limits]] = {
    "config.json": _Config,
    "preprocessor_config.json": _Extractor,
    "tokenizer_config.json": _Tokenizer,
    "special_tokens_map.json": _SpecialTokens,
}
