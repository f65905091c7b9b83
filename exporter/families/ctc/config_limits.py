"""The keys that a CTC model's configs may have, each with limits above those of any real model.

These are allowlists: other keys are dropped before anything is constructed. To accept one more
key, add one line.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from exporter.formats.config_json import Limits

MODEL_TYPES = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat")

_Layers = Annotated[int, Field(ge=1, le=128)]
_Width = Annotated[int, Field(ge=1, le=1 << 16)]
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Kernel = Annotated[int, Field(ge=1, le=4096)]
_Convolutions = Annotated[list[_Kernel], Field(min_length=1, max_length=32)]
_Channels = Annotated[list[_Width], Field(min_length=1, max_length=32)]
_Name = Annotated[str, Field(max_length=1024)]
_Label = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_Activation = Literal["gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "silu", "swish"]

_MOST_SAMPLES = 1 << 16  # of a frame's receptive field: four seconds


class _Ctc(Limits):
    model_config = ConfigDict(title="CTC model")


class _Config(_Ctc):
    """`config.json`; the defaults are those of transformers, or None where model types differ."""

    model_type: Literal["wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat"]
    architectures: list[_Name] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)] = 32
    hidden_size: _Width = 768
    num_hidden_layers: _Layers = 12
    num_attention_heads: _Heads = 12
    intermediate_size: _Width = 3072
    hidden_act: _Activation = "gelu"
    layer_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
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
    pad_token_id: Annotated[int, Field(ge=0, lt=1 << 20)] | None = None
    transformers_version: _Name | None = None
    # A stack of strided convolutions on top, for other kinds of models.
    add_adapter: Annotated[Literal[False] | None, Field(exclude=True)] = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Leave out what a file says nothing about."""
        return {name: value for name, value in dict(values).items() if value is not None}

    @model_validator(mode="after")
    def _fits(self) -> "_Config":
        lengths = {len(each) for each in (self.conv_dim, self.conv_stride, self.conv_kernel)}
        if len(lengths) > 1:
            msg = "conv_dim, conv_stride and conv_kernel have different lengths"
            raise ValueError(msg)
        if self.hidden_size % self.num_attention_heads:
            msg = (
                f"hidden_size ({self.hidden_size}) is no multiple of the "
                f"{self.num_attention_heads} attention heads"
            )
            raise ValueError(msg)
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            msg = (
                f"hidden_size ({self.hidden_size}) is no multiple of the "
                f"{self.num_conv_pos_embedding_groups} groups of its positional convolution"
            )
            raise ValueError(msg)
        if receptive_field(self.conv_kernel, self.conv_stride) > _MOST_SAMPLES:
            msg = f"a frame of more than {_MOST_SAMPLES} samples"
            raise ValueError(msg)
        return self


def receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Return the samples that a stack of convolutions needs for one frame."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


class _Extractor(_Ctc):
    """`preprocessor_config.json`."""

    feature_extractor_type: _Name | None = None
    feature_size: Literal[1] = 1
    sampling_rate: Annotated[int, Field(ge=1_000, le=768_000)] = 16_000
    padding_value: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    padding_side: Literal["right", "left"] | None = None
    do_normalize: bool = True
    return_attention_mask: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _inner(cls, values: Any) -> Any:
        """Return the object that transformers uses, which may be an inner one."""
        return values.get("feature_extractor", values) if isinstance(values, Mapping) else values


class _Token(Limits):
    """A token with its flags; `__type` is a mark of transformers."""

    content: _Name
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    single_word: bool = False
    special: bool = False
    mark: Literal["AddedToken"] | None = Field(default=None, alias="__type")


_AnyToken = _Name | _Token
_Tokens = Annotated[list[_AnyToken], Field(max_length=1 << 16)]


class _SpecialTokens(_Ctc):
    """`special_tokens_map.json`."""

    bos_token: _AnyToken | None = None
    eos_token: _AnyToken | None = None
    unk_token: _AnyToken | None = None
    pad_token: _AnyToken | None = None
    sep_token: _AnyToken | None = None
    cls_token: _AnyToken | None = None
    mask_token: _AnyToken | None = None
    additional_special_tokens: _Tokens | None = None


class _Tokenizer(_SpecialTokens):
    """`tokenizer_config.json`."""

    added_tokens_decoder: Annotated[dict[_Label, _Token] | None, Field(max_length=1 << 20)] = None
    clean_up_tokenization_spaces: bool | None = None
    do_lower_case: bool | None = None
    extra_special_tokens: dict[_Name, _AnyToken] | None = None
    model_max_length: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)] | None = None
    replace_word_delimiter_char: _Name | None = None
    target_lang: _Name | None = None
    tokenizer_class: _Name | None = None
    word_delimiter_token: _AnyToken | None = None


CONFIGS: Mapping[str, type[Limits]] = {
    "config.json": _Config,
    "preprocessor_config.json": _Extractor,
    "tokenizer_config.json": _Tokenizer,
    "special_tokens_map.json": _SpecialTokens,
}
