"""Modules that replace a model's own when an artifact is loaded: one file per scheme."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from exporter.quantization.schemes.base import IntegerScheme
from exporter.targets.pytorch.modules import dynamic_int8, static_int8
from exporter.targets.pytorch.modules.weight_only import GroupedLinear

Make = Callable[[nn.Module, IntegerScheme, Mapping[str, Tensor], Tensor | None], nn.Module]
"""Makes a module of the model's own, its scheme, the scheme's tensors by name, and the bias."""

BY_SCHEME: dict[str, Make] = {
    "dynamic-int8": dynamic_int8.make,
    "static-int8": static_int8.make,
    "weight-int4": GroupedLinear,
    "weight-int8": GroupedLinear,
}
