"""The options of an aoti target, and the variant of each graph that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from exporter.errors import MachineError
from exporter.quantization.moved_options import refuse_moved
from exporter.system.accelerators import Device
from exporter.system.hardware import MAX_THREADS, describe, level_features
from exporter.targets.aoti import (
    AMX_INT8,
    BF16,
    LEVELS,
    VNNI,
    Level,
    default_extension,
    default_level,
)
from exporter.targets.options import TargetOptions

Auto = Literal["auto"]
Precision = Literal["float32", "bfloat16", "float16", "auto"]
_ANY_OTHER = "*"  # stands for every graph that no option names

ROWS = (1, 5, 8, 32)
"""The rows of a decoder's step that have a graph of their own on a GPU by default."""

MOST_ROWS = 128
_Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
_AllRows = Annotated[  # a recipe has a list
    tuple[_Rows, ...], BeforeValidator(lambda rows: tuple(rows) if isinstance(rows, list) else rows)
]

# The options of one kind of device only, and the types in which each computes.
_OF_CPU = ("march", "vnni", "bf16", "onednn", "threads")
_OF_CUDA = ("rows",)
_DTYPES: dict[Device, tuple[Precision, ...]] = {
    "cpu": ("float32", "bfloat16", "auto"),
    "cuda": ("float16", "bfloat16"),
}


@dataclass(frozen=True)
class Variant:
    """A graph's compute type, and whether oneDNN multiplies its int8 weights.

    Without `quantized`, which only autotuning sets to False, weights stay in the compute type.
    """

    dtype: Precision
    onednn: bool | Auto
    quantized: bool = True

    @property
    def open(self) -> bool:
        """True if the build chooses the variant."""
        return self.dtype == "auto"

    @property
    def precision(self) -> torch.dtype:
        """The type in which the graph computes."""
        assert not self.open, "to be chosen before anything is cut"
        precision: torch.dtype = getattr(torch, self.dtype)
        return precision


class Options(TargetOptions):
    """`dtype` and `onednn` hold for all graphs, or by graph name (one not named has the default).

    `march` bounds the instructions that are compiled in; `vnni` and `bf16`, only with x86-64-v4,
    add those of int8 and bfloat16 to our own kernels. Without `vnni` an encoder's int8 weights are
    widened. `onednn` computes an encoder's int8 products by oneDNN, which uses AMX. Defaults
    follow this machine. With `dtype` auto, the build measures to choose both, and whether the
    graph's modules are quantized as planned or stay in bfloat16.
    `threads` is compiled in; without it packages use the threads of their process.

    With `device: cuda`, the whole model computes in one `dtype`, float16 or bfloat16, and `rows`
    has the numbers of rows of a decoder's step that have a graph of their own. Options of the other
    kind of device are refused, and left out of data. `march` is then the level of the packages'
    code for the CPU, which only starts kernels.
    """

    device: Device = "cpu"  # always serialized, unlike the base's: build keys contain it
    dtype: Precision | dict[str, Precision] = Field(
        default_factory=lambda data: "float16" if _on_cuda(data) else "float32"
    )
    rows: _AllRows = Field(default=ROWS, min_length=1, max_length=8)
    march: Level = Field(
        default_factory=lambda data: LEVELS[0] if _on_cuda(data) else _this_level()
    )
    vnni: bool = Field(
        default_factory=lambda data: default_extension(describe(), data.get("march"), VNNI)
    )
    bf16: bool = Field(
        default_factory=lambda data: default_extension(describe(), data.get("march"), BF16)
    )
    onednn: bool | Auto | dict[str, bool | Auto] = Field(
        default_factory=lambda data: _following(data, default=_knows_amx(data))
    )
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)

    _moved = model_validator(mode="before")(refuse_moved("int8", "exclude", "include_lm_head"))

    @model_validator(mode="after")
    def _of_this_device(self) -> "Options":
        other, others = ("cuda", _OF_CUDA) if self.device == "cpu" else ("cpu", _OF_CPU)
        for name in others:
            if name in self.model_fields_set:
                msg = f"`{name}` goes with `device: {other}` only"
                raise ValueError(msg)
        known = _DTYPES[self.device]
        given = self.dtype.values() if isinstance(self.dtype, dict) else (self.dtype,)
        if self.device == "cuda" and isinstance(self.dtype, dict):
            msg = "`dtype` is one for all graphs with `device: cuda`"
            raise ValueError(msg)
        for dtype in given:
            if dtype not in known:
                msg = f"`dtype: {dtype}` is not for `device: {self.device}`: {', '.join(known)}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _rows_differ(self) -> "Options":
        if len(set(self.rows)) < len(self.rows):
            msg = "`rows` names a number twice"
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _without_others(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the options of the other kind of device out of data."""
        others = _OF_CUDA if self.device == "cpu" else _OF_CPU
        data: dict[str, Any] = serialize(self)
        return {name: value for name, value in data.items() if name not in others}

    @model_validator(mode="after")
    def _extensions_need_avx512(self) -> "Options":
        for name in ("vnni", "bf16"):
            if getattr(self, name) and self.march != "x86-64-v4":
                msg = f"`{name}` goes with `march: x86-64-v4` only"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _auto_is_both(self) -> "Options":
        for graph in (*self.named, _ANY_OTHER):
            variant = self.variant(graph)
            if variant.open and variant.onednn != "auto":
                msg = "`dtype: auto` chooses `onednn` too: leave it out of such a graph"
                raise ValueError(msg)
            if not variant.open and variant.onednn == "auto":
                msg = "`onednn: auto` goes with `dtype: auto` only"
                raise ValueError(msg)
        return self

    @property
    def extensions(self) -> tuple[str, ...]:
        """CPU features beyond the level that are compiled in."""
        enabled = {VNNI: self.vnni, BF16: self.bf16}
        return tuple(name for name, wanted in enabled.items() if wanted)

    @property
    def features(self) -> frozenset[str]:
        """All CPU features that the packages may need."""
        return level_features(self.march) | set(self.extensions)

    @property
    def knows_amx(self) -> bool:
        """True if oneDNN uses AMX for int8 here, and so is faster than our kernels."""
        return _knows_amx({"vnni": self.vnni})

    @property
    def named(self) -> dict[str, str]:
        """The graph names that options use, each with the first option that does."""
        options: dict[str, str] = {}
        for option in ("dtype", "onednn"):
            value = getattr(self, option)
            names = value if isinstance(value, dict) else ()
            options = {**dict.fromkeys(names, option), **options}
        return options

    def variant(self, graph: str) -> Variant:
        """Return the variant that the options set for a graph."""
        dtype = _of(self.dtype, graph, "float32")
        auto: Auto | None = "auto" if dtype == "auto" else None
        return Variant(dtype, _of(self.onednn, graph, auto or self.knows_amx))

    def settled(self, variants: Mapping[str, Variant]) -> "Options":
        """Return the options with the chosen variant of each graph written out."""
        names = ("dtype", "onednn")
        fields = {name: {g: getattr(v, name) for g, v in variants.items()} for name in names}
        return self.model_copy(update=fields)


def _on_cuda(data: Mapping[str, Any]) -> bool:
    return data.get("device") == "cuda"


def _of(value: Any, graph: str, default: Any) -> Any:
    """Return an option's value for a graph."""
    return value.get(graph, default) if isinstance(value, dict) else value


def _following(data: dict[str, Any], *, default: bool) -> Any:
    """Return the default of `onednn`: auto for graphs whose dtype is auto."""
    dtype = data.get("dtype")
    if isinstance(dtype, dict):
        return {g: "auto" for g, precision in dtype.items() if precision == "auto"} or default
    return "auto" if dtype == "auto" else default


def _knows_amx(data: dict[str, Any]) -> bool:
    return bool(data.get("vnni")) and AMX_INT8 in describe().features


def _this_level() -> Level:
    level = default_level(describe())
    if level is None:
        msg = f"aoti compiles for {' or '.join(LEVELS)}, and this machine is {describe().isa}"
        raise MachineError(msg)
    return level
