"""The options of an onnx-int8 target."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from exporter.targets.onnx.layouts import Layout, Named, named
from exporter.targets.onnx.linear import (
    Precision,
)

# optimum's avx2 preset has unsigned weights: u8 x u8 does not saturate where VNNI is missing.
_UNSIGNED_PRESETS = ("avx2",)


class Options(BaseModel):
    """`preset` is one of optimum's `AutoQuantizationConfig`; `exclude` names what stays float.

    `dtype` is how linear weights are stored, for all graphs or by graph (one not named has int8).
    Whatever is stored, graphs take, give and compute float32, so that any mix loads anywhere.
    `layout` says whose names and places the files have; what they hold is the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Precision | dict[str, Precision] = "int8"

    preset: Literal["avx512_vnni", "avx512", "avx2", "arm64"] = "avx512_vnni"
    per_channel: bool = True
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    include_lm_head: bool = True
    layout: Layout = "optimum"

    def precision(self, graph: str) -> Precision:
        """How a graph's linear weights are stored; the encoder is that of `encoder_model`."""
        part = graph.partition("_")[0]
        return self.dtype if isinstance(self.dtype, str) else self.dtype.get(part, "int8")

    def named(self, graph: str, weights_from: str | None = None) -> Named:
        """A graph, with weights of its own or of a weights_from, and its file."""
        return named(self.layout, graph, int8=self.precision(weights_from or graph) == "int8")
