"""Limits for the numbers in a Whisper's configs, above those of any real model.

transformers does not check them: it would create a billion layers one by one before it reads
weights, and allocate a window of a terabyte.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.errors import CheckpointError
from exporter.formats.config_json import read_json

_Layers = Annotated[int, Field(ge=1, le=128)]
_Width = Annotated[int, Field(ge=1, le=1 << 17)]
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Positions = Annotated[int, Field(ge=1, le=1 << 17)]
_Activation = Literal["gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "silu", "swish"]
_Ids = dict[str, int] | None


class _Bounded(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Config(_Bounded):
    vocab_size: Annotated[int, Field(ge=1, le=1 << 22)] = 1
    num_mel_bins: Annotated[int, Field(ge=1, le=1024)] = 1
    d_model: _Width = 1
    encoder_layers: _Layers = 1
    decoder_layers: _Layers = 1
    encoder_attention_heads: _Heads = 1
    decoder_attention_heads: _Heads = 1
    encoder_ffn_dim: _Width = 1
    decoder_ffn_dim: _Width = 1
    max_source_positions: _Positions = 1
    max_target_positions: _Positions = 1
    activation_function: _Activation = "gelu"


class _Extractor(_Bounded):
    feature_size: Annotated[int, Field(ge=1, le=1024)] = 1
    sampling_rate: Annotated[int, Field(ge=1_000, le=768_000)] = 16_000
    hop_length: Annotated[int, Field(ge=1, le=1 << 14)] = 1
    n_fft: Annotated[int, Field(ge=2, le=1 << 14)] = 2
    chunk_length: Annotated[int, Field(ge=1, le=600)] = 1


class _Generation(_Bounded):
    lang_to_id: _Ids = None
    task_to_id: _Ids = None
    no_timestamps_token_id: int | None = None
    decoder_start_token_id: int | None = None
    is_multilingual: bool | None = None


def check_config(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config with values outside the limits."""
    _check(_Config, config, "config.json")


def check_files(folder: Path) -> None:
    """Raise CheckpointError for an extractor or generation config outside the limits."""
    for model, name in ((_Extractor, "preprocessor_config"), (_Generation, "generation_config")):
        path = folder / f"{name}.json"
        _check(model, read_json(path), str(path))


def _check(model: type[_Bounded], values: Mapping[str, Any], where: str) -> None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r:.40}"
        msg = f"{where}: {problem}: this is no Whisper's"
        raise CheckpointError(msg) from error
