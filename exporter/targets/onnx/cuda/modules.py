"""The modules of float16 graphs, and the functions that make their nodes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families import attention as operators
from exporter.quantization.convolution import FramesConvolution, is_unfoldable, unfolded_weight
from exporter.quantization.modules import OwnLayout, meta_parameter, replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.float import Scheme as Float
from exporter.targets.onnx import attention
from exporter.targets.onnx.modules import floating, weight_only
from exporter.targets.onnx.modules.floating import FloatMatMul, TiedMatMul

_UNUSED = torch.int8  # the type of codes where a scheme leaves it open: none of these does
_BY_SCHEME: dict[str, Any] = {
    "float": floating,
    "weight-int4": weight_only,
    "weight-int8": weight_only,
}
SCHEMES = frozenset(_BY_SCHEME)


class FloatFrames(FramesConvolution, OwnLayout):
    """A convolution as a product of its frames: no algorithm is searched for at its first call."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__(conv)
        shape = conv.kernel_size[0] * conv.in_channels, conv.out_channels
        self.weight = meta_parameter(shape, conv.weight.dtype)
        self.bias = conv.bias

    def frames(self, states: Tensor) -> Tensor:
        """Convolve [batch, frames, in] to [batch, outputs, out]."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        padded = self.padded(states)
        # Slices end where the last window does, so that all of them are equally long.
        parts = [
            padded[:, first : padded.shape[1] + first - kernel + 1 : stride]
            for first in range(kernel)
        ]
        product = torch.cat(parts, -1) @ self.weight.to(states.dtype)
        return product if self.bias is None else product + self.bias.to(states.dtype)

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the weight as [kernel * in, out]."""
        return unfolded_weight(tensor).t() if leaf == "weight" else tensor


def replace_modules(model: nn.Module, plan: QuantizationPlan, shared: Mapping[str, str]) -> None:
    """Replace all linear modules and convolutions of a skeleton.

    Args:
        model: A skeleton in the type in which its graphs compute.
        plan: The scheme of each module.
        shared: The tables with a head's weights, from `shared_tables`.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            scheme = plan.modules.get(name, Float())
            made = _BY_SCHEME[scheme.name].replacement(module, scheme, _UNUSED)
            replace_module(model, name, made)
        elif isinstance(module, nn.Conv1d) and is_unfoldable(module):
            replace_module(model, name, FloatFrames(module))
    for table, head in shared.items():
        if isinstance(model.get_submodule(head), FloatMatMul):
            replace_module(model, head, TiedMatMul(model.get_submodule(table)))


NODES: dict[Any, Callable[..., Any]] = {
    operators.shared_attention: attention.buffer_attention,
    weight_only.matmul_nbits: weight_only.float_matmul_nbits_nodes,
}
