"""The options of an aoti target, and what they mean for each graph."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from exporter.errors import MachineError
from exporter.system.hardware import describe, level_features

Auto = Literal["auto"]
Precision = Literal["float32", "bfloat16", "auto"]
Level = Literal["x86-64-v3", "x86-64-v4"]
_VNNI, _BF16, _AMX = "avx512_vnni", "avx512_bf16", "amx_int8"
_ANY_OTHER = "*"  # no graph's name: one that no option names


@dataclass(frozen=True)
class Variant:
    """What one graph becomes: the type it computes in, its weights, and who multiplies them."""

    dtype: Precision
    int8: bool | Auto
    onednn: bool | Auto

    @property
    def open(self) -> bool:
        """Whether the build is to choose."""
        return self.dtype == "auto"


class Options(BaseModel):
    """`dtype`, `int8` and `onednn` hold for all graphs, or by graph name (one not named has the
    default).

    `march` bounds the instructions that are compiled in; `vnni` and `bf16`, only with x86-64-v4,
    add those of int8 and bfloat16 to our own kernels. Without `vnni` an encoder's int8 weights are
    widened. `onednn` leaves an encoder's int8 products to oneDNN, which knows AMX. All default to
    what this machine has. `dtype` auto leaves all three of a graph to the build, which measures.
    `threads` is baked in; without it the packages follow their process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu"] = "cpu"
    dtype: Precision | dict[str, Precision] = "float32"
    int8: bool | Auto | dict[str, bool | Auto] = Field(
        default_factory=lambda data: _following(data, default=True)
    )
    march: Level = Field(default_factory=lambda: _this_level())
    vnni: bool = Field(
        default_factory=lambda data: (
            data.get("march") == "x86-64-v4" and _VNNI in describe().features
        )
    )
    bf16: bool = Field(
        default_factory=lambda data: (
            data.get("march") == "x86-64-v4" and _BF16 in describe().features
        )
    )
    onednn: bool | Auto | dict[str, bool | Auto] = Field(
        default_factory=lambda data: _following(data, default=_knows_amx(data))
    )
    threads: int | None = Field(default=None, ge=1)
    exclude: tuple[str, ...] = ()
    include_lm_head: bool = True

    @model_validator(mode="after")
    def _extensions_need_avx512(self) -> "Options":
        for name in ("vnni", "bf16"):
            if getattr(self, name) and self.march != "x86-64-v4":
                msg = f"`{name}` goes with `march: x86-64-v4` only"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _auto_is_all_three(self) -> "Options":
        for graph in (*self.named, _ANY_OTHER):
            form = self.form(graph)
            for name in ("int8", "onednn"):
                if form.open and getattr(form, name) != "auto":
                    msg = f"`dtype: auto` chooses `{name}` too: leave it out of such a graph"
                    raise ValueError(msg)
                if not form.open and getattr(form, name) == "auto":
                    msg = f"`{name}: auto` goes with `dtype: auto` only"
                    raise ValueError(msg)
        return self

    @property
    def extensions(self) -> tuple[str, ...]:
        """CPU features beyond the level that may be compiled in."""
        asked = {_VNNI: self.vnni, _BF16: self.bf16}
        return tuple(name for name, wanted in asked.items() if wanted)

    @property
    def features(self) -> frozenset[str]:
        """Everything that the packages may ask of a CPU."""
        return level_features(self.march) | set(self.extensions)

    @property
    def knows_amx(self) -> bool:
        """Whether oneDNN has AMX for int8 here, and is our kernels' better."""
        return _knows_amx({"vnni": self.vnni})

    @property
    def named(self) -> dict[str, str]:
        """The graph names that options use, each with the first option that does."""
        found: dict[str, str] = {}
        for option in ("dtype", "int8", "onednn"):
            value = getattr(self, option)
            found = {**dict.fromkeys(value if isinstance(value, dict) else (), option), **found}
        return found

    def form(self, graph: str) -> Variant:
        """What is asked of a graph."""
        dtype = _of(self.dtype, graph, "float32")
        auto: Auto | None = "auto" if dtype == "auto" else None
        return Variant(
            dtype,
            _of(self.int8, graph, auto or True),
            _of(self.onednn, graph, auto or self.knows_amx),
        )

    def settled(self, forms: Mapping[str, Variant]) -> "Options":
        """The same options with the forms of all graphs spelt out."""
        spelt = {graph: asdict(form) for graph, form in forms.items()}
        fields = {name: {g: form[name] for g, form in spelt.items()} for name in _FORM_FIELDS}
        return self.model_copy(update=fields)

    def reformed(self, graph: str, form: Variant) -> "Options":
        """The same, settled as they are, with another form for one graph."""
        return self.settled({**{name: self.form(name) for name in self.named}, graph: form})

    def precision(self, graph: str) -> torch.dtype:
        """What a graph computes in."""
        name = self.form(graph).dtype
        assert name != "auto", "to be chosen before anything is cut"
        return torch.float32 if name == "float32" else torch.bfloat16


_FORM_FIELDS = tuple(Variant.__dataclass_fields__)


def _of(value: Any, graph: str, default: Any) -> Any:
    """What an option says of a graph."""
    return value.get(graph, default) if isinstance(value, dict) else value


def _following(data: dict[str, Any], *, default: bool) -> Any:
    """Auto where the dtype is, else the default."""
    dtype = data.get("dtype")
    if isinstance(dtype, dict):
        return {g: "auto" for g, asked in dtype.items() if asked == "auto"} or default
    return "auto" if dtype == "auto" else default


def _knows_amx(data: dict[str, Any]) -> bool:
    return bool(data.get("vnni")) and _AMX in describe().features


def _this_level() -> Level:
    isa = describe().isa
    for level in get_args(Level):
        if isa == level:
            return level  # type: ignore[no-any-return]
    msg = f"aoti compiles for {' or '.join(get_args(Level))}, and this machine is {isa}"
    raise MachineError(msg)
