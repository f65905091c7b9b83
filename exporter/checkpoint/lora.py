"""LoRA adapters, merged into the base checkpoint tensor by tensor while it is read.

As in peft's `merge_and_unload`, the result is W + scale * (B @ A). It is computed for a few rows at
a time, in float32, and rounded once to the type in which the base stores W. Settings that would
change this formula and are not implemented are refused.
Source: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/layer.py
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError
from torch import Tensor

from exporter.checkpoint.files import ADAPTER, ADAPTER_WEIGHTS
from exporter.checkpoint.names import unwrapped
from exporter.errors import CheckpointError
from exporter.formats.tensor_io import FLOATS, TensorInfo, safetensors_infos

_PREFIX = "base_model.model."
Value = TypeVar("Value")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Settings of the training, whose effect is in the stored tensors.
_INERT = frozenset(
    {
        *("auto_mapping", "peft_version", "task_type", "inference_mode", "target_modules"),
        *("exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern"),
        *("megatron_config", "megatron_core", "runtime_config", "ensure_weight_tying"),
        # Used only together with another setting, which is refused below.
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    }
)


class Lora(BaseModel):
    """The part of an `adapter_config.json` that decides the merged weights.

    Initialisations that are not listed (PiSSA, OLoRA, LoftQ, ...) change the base's weights too.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: Literal["LORA"]
    base_model_name_or_path: str
    revision: str | None = None
    r: PositiveInt
    lora_alpha: FiniteFloat
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    modules_to_save: list[str] | None = None
    bias: Literal["none"] = "none"
    init_lora_weights: Literal[True, False, "gaussian", "eva", "orthogonal"] = True

    @property
    def base(self) -> str:
        """The base's Hub id with its revision, as in a recipe."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.base_model_name_or_path}{revision}"

    def rank(self, module: str) -> int:
        """Return the rank of a module's update."""
        return _matching(self.rank_pattern or {}, module, self.r)

    def scale(self, module: str) -> float:
        """Return the factor of the product of a module's two matrices."""
        rank = self.rank(module)
        alpha = _matching(self.alpha_pattern or {}, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class Merged(TensorInfo):
    """A linear weight [out, in] of the base plus the adapter's update."""

    base: TensorInfo
    down: TensorInfo
    up: TensorInfo
    scale: float

    @property
    def files(self) -> tuple[Path, ...]:
        """The base's file and the adapter's."""
        return (*self.base.files, self.down.file)

    def read(self) -> Tensor:
        """Read and merge all rows."""
        whole = torch.empty(self.shape, dtype=FLOATS[self.dtype])
        start = 0
        for block in self.blocks():
            whole[start : start + len(block)] = block
            start += len(block)
        return whole

    def blocks(self) -> Iterator[Tensor]:
        """Read the rows in order and merge them, some at a time."""
        down, up = self.down.read().float(), self.up.read().float()
        start, buffer = 0, torch.empty(0)  # one for all blocks, since allocating memory takes time
        for block in self.base.blocks():
            if len(block) > len(buffer):
                buffer = torch.empty(block.shape)
            end = start + len(block)
            update = torch.mm(up[start:end], down, out=buffer[: len(block)])
            yield block.copy_(update.mul_(self.scale).add_(block))
            start = end


def lora(path: Path, settings: Mapping[str, Any]) -> Lora:
    """Check an adapter's settings.

    Args:
        path: The file of the settings, for messages.
        settings: The file's content.

    Returns:
        The settings that decide the merged weights.

    Raises:
        CheckpointError: A setting is wrong, or not implemented here.
    """
    try:
        read = Lora.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        value = f" (here {first['input']!r})" if first["type"] != "missing" else ""
        msg = f"{path}: {key}: {first['msg']}{value}"
        raise _unmergeable(msg) from error
    for key, value in (read.model_extra or {}).items():
        if value and key not in _INERT:
            msg = f"{path}: {key}: {value!r} is not supported"
            raise _unmergeable(msg)
    _require_patterns(path, [*(read.rank_pattern or ()), *(read.alpha_pattern or ())])
    return read


def _require_patterns(path: Path, patterns: Collection[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            msg = f"{path}: the pattern {pattern!r} is no regular expression ({error})"
            raise CheckpointError(msg) from error


def merge(
    folder: Path, settings: Lora, base: Mapping[str, TensorInfo], tied: Collection[str]
) -> dict[str, TensorInfo]:
    """Merge the adapter in `folder` into the base's tensors; values are read later.

    Args:
        folder: The adapter.
        settings: Its settings.
        base: The base's tensors by name.
        tied: Names that share one weight, which an adapter must not change.

    Returns:
        All tensors by name.

    Raises:
        CheckpointError: The adapter's file is missing or damaged, does not fit the base, or has
            tensors that cannot be merged.
    """
    path = folder / ADAPTER_WEIGHTS
    left = _adapter_infos(path)
    updated = _updates(path, settings, base, left)
    tensors = {**base, **updated, **_replacements(path, settings, base, left)}
    if left:
        msg = f"{path}: the tensor {_PREFIX}{next(iter(left))} cannot be merged"
        raise _unmergeable(msg)
    for name in tied:
        if tensors.get(name) != base.get(name):
            msg = f"{path}: it changes {name}, which shares its values with another tensor"
            raise _unmergeable(msg)
    return tensors


def _updates(
    path: Path, settings: Lora, base: Mapping[str, TensorInfo], left: dict[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Return the weights that pairs of factors update; remove the pairs from `left`."""
    modules = [
        name.removesuffix(end) for name in left for end in (_DOWN, _UP) if name.endswith(end)
    ]
    updated: dict[str, TensorInfo] = {}
    for module in dict.fromkeys(modules):
        weight = _own(path, f"{module}.weight", base)
        factors = left.pop(module + _DOWN, None), left.pop(module + _UP, None)
        updated[f"{module}.weight"] = _merged(path, module, weight, factors, settings)
    return updated


def _replacements(
    path: Path, settings: Lora, base: Mapping[str, TensorInfo], left: dict[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Return the tensors that replace the base's (modules_to_save); remove them from `left`."""
    replaced: dict[str, TensorInfo] = {}
    for saved in settings.modules_to_save or ():
        names = [name for name in left if name.rpartition(".")[0].endswith(saved)]
        if not names:
            msg = f"{path}: no tensor of {saved!r}, which {ADAPTER} names in modules_to_save"
            raise CheckpointError(msg)
        for name in names:
            replaced[name] = left.pop(name)
            ours, theirs = _own(path, name, base).shape, replaced[name].shape
            if ours != theirs:
                msg = f"{path}: {name} is {list(theirs)}, in the base {list(ours)}: another base?"
                raise CheckpointError(msg)
    return replaced


def _adapter_infos(path: Path) -> dict[str, TensorInfo]:
    """Return the adapter's tensors by the names of the base's modules."""
    if not path.is_file():
        msg = (
            f"{path.parent}: {path.name} is missing.\n"
            "If there is an adapter_model.bin, load it with peft and save it again."
        )
        raise CheckpointError(msg)
    infos = safetensors_infos(path)
    for name, info in infos.items():
        if not name.startswith(_PREFIX) or info.dtype not in FLOATS:
            msg = f"{path}: the tensor {name} ({info.dtype}) cannot be merged"
            raise _unmergeable(msg)
    if not infos:
        msg = f"{path}: holds no tensors: the adapter was not saved whole"
        raise CheckpointError(msg)
    return {unwrapped(name.removeprefix(_PREFIX)): info for name, info in infos.items()}


def _own(path: Path, name: str, base: Mapping[str, TensorInfo]) -> TensorInfo:
    if name not in base:
        msg = f"{path}: it changes {name}, which the base lacks: is it for another base?"
        raise CheckpointError(msg)
    return base[name]


def _merged(
    path: Path,
    module: str,
    weight: TensorInfo,
    factors: tuple[TensorInfo | None, TensorInfo | None],
    settings: Lora,
) -> Merged:
    """Check the shapes of an update, and return the weight with it."""
    down, up = factors
    if down is None or up is None:
        lacking = _DOWN if down is None else _UP
        msg = f"{path}: {_PREFIX}{module}{lacking} is missing: fetch it again"
        raise CheckpointError(msg)
    if len(weight.shape) != 2:
        msg = f"{path}: {module} is not a linear module"
        raise _unmergeable(msg)
    (out, width), rank = weight.shape, settings.rank(module)
    if (down.shape, up.shape) != ((rank, width), (out, rank)):
        msg = (
            f"{path}: {module} has factors {list(down.shape)} and {list(up.shape)}; "
            f"a weight {[out, width]} and rank {rank} in {ADAPTER} need others"
        )
        raise CheckpointError(msg)
    place = (weight.file, weight.offset, weight.shape, weight.dtype)
    return Merged(*place, weight, down, up, settings.scale(module))


def _matching(patterns: Mapping[str, Value], module: str, default: Value) -> Value:
    """Return the value of the first pattern that matches, as in peft; else `default`."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _unmergeable(what: str) -> CheckpointError:
    hint = "Merge it with peft's merge_and_unload, and give the merged checkpoint."
    return CheckpointError(f"{what}.\n{hint}")
