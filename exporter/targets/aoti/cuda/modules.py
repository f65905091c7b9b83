"""Modules with int8 weights on a GPU: weights are widened where they are multiplied.

Activations keep the type in which the model computes, whatever a scheme does with them elsewhere.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporter.errors import RecipeError
from exporter.quantization.convolution import FramesConvolution, per_row
from exporter.quantization.modules import OwnLayout, meta_parameter, replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.float import Scheme as Float
from exporter.quantization.schemes.weight_int8 import Scheme as WeightInt8
from exporter.targets.aoti.cuda.product import is_few, product_of, widened

SCHEMES = frozenset({"float", "dynamic-int8", "weight-int8"})


def check_schemes(plan: QuantizationPlan) -> None:
    """Refuse schemes that have no module here.

    Raises:
        RecipeError: A module has one; the message says which there are.
    """
    for name, scheme in plan.modules.items():
        reason = _refused(scheme)
        if reason:
            msg = (
                f"{name}: aoti with `device: cuda` has no {reason}.\n"
                "It has `float`, `weight-int8` with symmetric groups, and `dynamic-int8`, of which "
                "it takes the weights: each row has one scale."
            )
            raise RecipeError(msg)


def _refused(scheme: object) -> str | None:
    match scheme:
        case Float(dtype=dtype) if dtype is not None:
            return "`float` with a `dtype` of its own: weights have the target's `dtype`"
        case WeightInt8(symmetric=False):
            return "`weight-int8` with zero points"
        case Float() | WeightInt8() | DynamicInt8():
            return None
        case IntegerScheme():
            return f"`{scheme.name}`"
    return f"`{scheme}`"


def replace_modules(model: nn.Module, plan: QuantizationPlan, shared: Mapping[str, str]) -> None:
    """Replace the quantized modules of a plan.

    Args:
        model: A skeleton.
        plan: The scheme of each module: see `check_schemes`.
        shared: The tables with a head's weights, from `shared_tables`.
    """
    for name, scheme in plan.quantized.items():
        if name not in shared:
            replace_module(model, name, _replacement(model.get_submodule(name), scheme))
    for table in shared.keys() & plan.quantized.keys():
        head = model.get_submodule(shared[table])
        assert isinstance(head, WideningLinear)
        replace_module(model, table, WideningTable(head))


def _replacement(module: nn.Module, scheme: IntegerScheme) -> nn.Module:
    if isinstance(module, nn.Conv1d):
        return WideningConvolution(module)
    assert isinstance(module, nn.Linear)
    return WideningLinear(module, scheme)


class WideningLinear(OwnLayout):
    """A linear module with weights int8 [out, in] and scales float32 [out, groups]."""

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, scheme: IntegerScheme) -> None:
        super().__init__()
        groups = scheme.groups(linear.in_features) if isinstance(scheme, WeightInt8) else 1
        self.weight = meta_parameter(tuple(linear.weight.shape), torch.int8)
        self.scale = meta_parameter((linear.out_features, groups), torch.float32)
        self.register_parameter("bias", linear.bias)  # None too, so that modules can be joined

    def forward(self, states: Tensor) -> Tensor:
        if is_few(states):
            return product_of(states, self.weight, self.scale, self.bias)
        weight = widened(self.weight, self.scale).to(states.dtype)
        wide: Tensor = nn.functional.linear(states, weight, self.bias)
        return wide

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return signed codes, and scales with an axis of groups."""
        if leaf == "weight" and tensor.dtype == torch.uint8:
            return (tensor ^ 0x80).view(torch.int8)
        return tensor.reshape(-1, 1) if leaf == "scale" and tensor.dim() == 1 else tensor


class WideningConvolution(FramesConvolution):
    """A convolution with weights int8 [out, in, kernel] and scales float32 [out]."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__(conv)
        self.weight = meta_parameter(tuple(conv.weight.shape), torch.int8)
        self.scale = meta_parameter((conv.out_channels,), torch.float32)
        self.bias = conv.bias

    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""
        weight = (self.weight.float() * per_row(self.scale, self.weight)).to(states.dtype)
        convolved: Tensor = nn.functional.conv1d(
            states.transpose(1, 2), weight, self.bias, self.stride, self.padding
        )
        return convolved.transpose(1, 2)


class WideningTable(nn.Module):
    """Looks rows up in the codes of an int8 head, which it shares."""

    def __init__(self, head: WideningLinear) -> None:
        super().__init__()
        self.head = head

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.head.weight[ids].float() * self.head.scale[ids]
        return rows
