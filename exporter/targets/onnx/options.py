"""What a recipe may say of an onnx-int8 target."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from exporter.quantization.moved_options import refuse_moved
from exporter.targets.onnx.layouts import Layout

# optimum's avx2 preset has unsigned weights: u8 x u8 does not saturate where VNNI is missing.
_UNSIGNED_PRESETS = ("avx2",)
_MOVED = ("dtype", "per_channel", "reduce_range", "exclude", "include_lm_head")


class Options(BaseModel):
    """`preset` is one of optimum's `AutoQuantizationConfig`: the type of the stored integers.

    `layout` says whose names and places the files have; what they hold is the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["avx512_vnni", "avx512", "avx2", "arm64"] = "avx512_vnni"
    layout: Layout = "optimum"

    _moved = model_validator(mode="before")(refuse_moved(*_MOVED))
