"""What the files of any tokenizer of transformers may hold that families share."""

from typing import Annotated, Literal

from pydantic import Field

from exporter.formats.config_limits import Limits

Name = Annotated[str, Field(max_length=1024)]
_Label = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class Token(Limits):
    """A token with its flags; `__type` is a mark of transformers."""

    content: Name
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    single_word: bool = False
    special: bool = False
    mark: Literal["AddedToken"] | None = Field(default=None, alias="__type")


AnyToken = Name | Token
_Tokens = Annotated[list[AnyToken], Field(max_length=1 << 16)]


class SpecialTokens(Limits):
    """`special_tokens_map.json`."""

    bos_token: AnyToken | None = None
    eos_token: AnyToken | None = None
    unk_token: AnyToken | None = None
    pad_token: AnyToken | None = None
    sep_token: AnyToken | None = None
    cls_token: AnyToken | None = None
    mask_token: AnyToken | None = None
    additional_special_tokens: _Tokens | None = None


class Tokenizer(SpecialTokens):
    """`tokenizer_config.json`."""

    added_tokens_decoder: Annotated[dict[_Label, Token] | None, Field(max_length=1 << 20)] = None
    clean_up_tokenization_spaces: bool | None = None
    extra_special_tokens: dict[Name, AnyToken] | None = None
    model_max_length: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)] | None = None
    tokenizer_class: Name | None = None
