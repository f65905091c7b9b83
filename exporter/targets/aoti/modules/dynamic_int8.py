"""dynamic-int8 in aoti: our kernel, or oneDNN's product."""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.quantization.modules import meta_parameter


@torch.library.custom_op("exporter::int8_linear", mutates_args=())
def int8_linear(
    states: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, gelu: bool
) -> Tensor:
    """Compute a linear module with int8 weights and dynamically quantized inputs.

    `states` float32 [..., in] are quantized to int8 with one scale per row and multiplied with
    `weight` int8 [out, in], whose rows have `scale` float32 [out]; then bias and, with `gelu`,
    GELU are applied.
    """
    codes, step = Activations().quantize(states)
    product = (codes.double() @ weight.double().t()).float() * (step * scale)
    product = product if bias is None else product + bias
    product = nn.functional.gelu(product) if gelu else product
    return product.reshape(*states.shape[:-1], -1)


@int8_linear.register_fake
def _(states: Tensor, weight: Tensor, _scale: Tensor, _bias: Tensor | None, _gelu: bool) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


def fuse_gelu(graph: torch.fx.Graph, definition: Any = int8_linear, argument: int = 4) -> None:
    """Fuse an exact GELU that is the only use of a linear operator into that operator.

    Args:
        graph: The graph, changed in place.
        definition: The operator.
        argument: The place of its argument `gelu`.
    """
    for node in graph.find_nodes(op="call_function", target=definition._opoverload):
        after = next(iter(node.users))
        exact = after.target is torch.ops.aten.gelu.default and not after.kwargs
        if len(node.users) == 1 and exact:
            node.update_arg(argument, True)
            after.replace_all_uses_with(node)
            graph.erase_node(after)


_MANY = 64


class Activations:
    """Quantizes activations to int8 with a scale per row, once for modules that share them."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def quantize(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize [..., in] to int8 [rows, in] and float32 scales [rows, 1]."""
        if self._seen is None or self._seen[0] is not states:
            rows = states.reshape(-1, states.shape[-1]).float()
            scale = (rows.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            self._seen = states, (rows / scale).round().to(torch.int8), scale
        return self._seen[1], self._seen[2]


class Int8Linear(nn.Module):
    """A linear module with weights int8 [out, in] and scales float32 [out].

    Our kernel serves any number of rows. For graphs with many rows, such as encoders, two others
    may be faster: with `activations`, oneDNN's product, which uses AMX and takes the weights as
    they are stored; and with `widen`, for CPUs without VNNI, a float product.
    """

    def __init__(
        self, linear: nn.Linear, activations: "Activations | None" = None, *, widen: bool = False
    ) -> None:
        super().__init__()
        self.weight = meta_parameter(tuple(linear.weight.shape), torch.int8)
        self.scale = meta_parameter((linear.out_features,), torch.float32)
        self.bias = linear.bias
        self._activations = activations
        self._widen = widen

    def forward(self, states: Tensor) -> Tensor:
        many = isinstance(states.shape[-2], int) and states.shape[-2] >= _MANY
        bias = None if self.bias is None else _as(self.bias, torch.float32)
        if many and self._widen:
            widened = self.weight.to(states.dtype) * self.scale.to(states.dtype)[:, None]
            wide: Tensor = nn.functional.linear(states, widened, self.bias)
            return wide
        if many and self._activations is not None:
            # One product of both scales: two would match Inductor's pattern for `qlinear` with
            # signed activations, which is a reference loop on some CPUs.
            codes, step = self._activations.quantize(states)
            product = torch._int_mm(codes, self.weight.t()).float() * (step * self.scale)
            product = (product if bias is None else product + bias).unflatten(0, states.shape[:-1])
        else:
            floats = _as(states, torch.float32).contiguous()
            product = int8_linear(floats, self.weight, self.scale, bias, False)
        return _as(product, states.dtype)


def _as(states: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to `dtype`, without a node if it is the same: `fuse_gelu` would not match it."""
    return states if states.dtype == dtype else states.to(dtype)
