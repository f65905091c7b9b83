"""The options of an onnx-int8 target."""

from pydantic import model_validator

from exporter.quantization.moved_options import refuse_moved
from exporter.targets.onnx import DEFAULT_PRESET, Preset
from exporter.targets.onnx.layouts import Layout
from exporter.targets.options import TargetOptions

# optimum's avx2 preset has unsigned weights: u8 x u8 does not saturate where VNNI is missing.
_UNSIGNED_PRESETS = ("avx2",)
_MOVED = ("dtype", "per_channel", "reduce_range", "exclude", "include_lm_head")


class Options(TargetOptions):
    """`preset` is one of optimum's `AutoQuantizationConfig`: the type of the stored integers.

    `layout` selects the file names and folders; the contents are the same.
    """

    preset: Preset = DEFAULT_PRESET
    layout: Layout = "optimum"

    _moved = model_validator(mode="before")(refuse_moved(*_MOVED))
