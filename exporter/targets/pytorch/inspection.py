"""How torch-int8 rounds, and its stored weights beside the checkpoint's."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.attention import kept
from exporter.families.base import Family
from exporter.families.graph import GraphFunction
from exporter.quantization.convolution import FramesConvolution, unfolded_weight
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.quantization.simulate import Round, Rounding
from exporter.system.hardware import describe
from exporter.targets.inspection import StoredWeight, Unrounded, plan_of
from exporter.targets.pytorch.files import WEIGHTS, contents, rebuilt
from exporter.targets.pytorch.modules import BY_SCHEME
from exporter.targets.pytorch.modules.static_int8 import NARROW, narrowed
from exporter.targets.pytorch.modules.table import SharedTable

EXACT = True
_LEAST_SCALE = 6.1e-5  # torch's SMALL_SCALE_THRESHOLD


def rounding(
    manifest: Manifest, scheme: IntegerScheme | None, *, graph: str, once: bool, narrow: bool
) -> Rounding:
    """Return the rounding of the inputs of torch's products to u8, one scale for all of a call.

    Products with weights in groups round inputs and outputs to bfloat16 instead. The audio's cache
    is in int8 whatever the weights are.
    """
    if scheme is None:
        return Rounding(window_cache=kept)
    if isinstance(scheme, WeightOnly):
        return Rounding(inputs=_short, products=_short, window_cache=kept)
    return Rounding(inputs=_INPUTS[scheme.name](scheme), window_cache=kept)


def _short(states: Tensor) -> Tensor:
    return states.bfloat16().float()


def _unsigned(states: Tensor) -> Tensor:
    """Round to 8 bits (7 without VNNI) as `ChooseQuantizationParams` of torch chooses them."""
    largest = 255 if describe().vnni else 127
    low, high = min(float(states.min()), 0.0), max(float(states.max()), 0.0)
    scale = (high - low) / largest
    if scale == 0.0:
        scale = 0.1
    elif scale < _LEAST_SCALE:
        grown = _LEAST_SCALE / scale
        scale, low, high = _LEAST_SCALE, low * grown, high * grown
    # The zero point is exact at the end that loses less by it.
    first, last = -low / scale, largest - high / scale
    zero = first if abs(low / scale) < largest + abs(high / scale) else last
    point = min(max(round(zero), 0), largest)
    codes = (states / scale).round().add_(point).clamp_(0, largest)
    return codes.sub_(point).mul_(scale)


def _static(scheme: Any) -> Round:
    """Return the rounding with a constant scale, in 7 bits without VNNI."""
    if describe().vnni:
        rounded: Round = scheme.rounded
        return rounded
    step, zero, ends = narrowed(scheme.input_scale, scheme.input_zero_point)

    def narrow(states: Tensor) -> Tensor:
        return (states.clamp(*ends) / step).round().add_(zero).clamp_(0, NARROW).sub_(zero) * step

    return narrow


_INPUTS: dict[str, Callable[[Any], Round]] = {
    "dynamic-int8": lambda _: _unsigned,
    "static-int8": _static,
}


def stored(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
) -> Iterator[StoredWeight]:
    """Yield every tensor of `model.safetensors`, and those that it lacks."""
    plan = plan_of(folder, manifest)
    weights, tensors, _ = contents(plan, family.skeleton(checkpoint.config), checkpoint, family)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        names = set(file.keys())
        for name, (dtype, _) in tensors.items():
            there = file.get_tensor(name) if name in names else None
            yield StoredWeight(WEIGHTS, name, there, weights.read(name).to(dtype))
        for name in sorted(names - tensors.keys()):
            yield StoredWeight(WEIGHTS, name, file.get_tensor(name), None)


def _float(
    module: nn.Module,
    scheme: IntegerScheme,
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return SharedTable(tensors)
    weight = scheme.dequantize(tensors)
    return _Frames(module, weight, bias) if isinstance(module, nn.Conv1d) else _Float(weight, bias)


class _Float(nn.Module):
    """A product with dequantized weights, which are no entries of its state_dict."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._values = weight, bias

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, *self._values)


class _Frames(FramesConvolution):
    """A convolution with a dequantized weight, which families ask for its `frames` as in int8."""

    def __init__(self, conv: nn.Conv1d, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(conv)
        self._values = unfolded_weight(weight), bias

    def frames(self, states: Tensor) -> Tensor:
        return nn.functional.linear(self.rows(states), *self._values)


def unrounded(folder: Path, manifest: Manifest, family: Family, threads: int) -> Unrounded:
    """Open the model with its int8 weights dequantized."""
    floats = dict.fromkeys(BY_SCHEME, _float)
    opened = Unrounded(rebuilt(folder, manifest, family, floats, torch.device("cpu")))
    for name, module in opened.model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(_keeping(opened, name))
    return opened


def _keeping(opened: Unrounded, name: str) -> Callable[..., None]:
    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        opened.keep(name, output)

    return keep


def others(folder: Path, manifest: Manifest, threads: int) -> dict[str, GraphFunction]:
    """Return none: all files are used by `load`."""
    return {}
