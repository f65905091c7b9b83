"""weight-int4 and weight-int8 in aoti: our kernel for weights in groups."""

import torch
from torch import Tensor, nn

from exporter.quantization.modules import meta_parameter
from exporter.quantization.schemes.weight_only import WeightOnly, grouped, round_groups, unpacked


@torch.library.custom_op("exporter::grouped_linear", mutates_args=())
def grouped_linear(
    states: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group: int,
    gelu: bool,
) -> Tensor:
    """Compute a linear module with weights in groups and dynamically quantized inputs.

    `states` float32 [..., in] are rounded to int8 with one scale per row and `group` inputs, and
    multiplied with codes of `bits` bits, uint8 [out, in * bits / 8], which have scales float32
    [out, groups] and zero points uint8 [out, groups * bits / 8], or 2 ** (bits - 1). Then bias and,
    with `gelu`, GELU are applied.
    """
    width = states.shape[-1]
    codes = grouped(unpacked(weight, bits)[:, :width].double(), group)
    zeros: float | Tensor = 2.0 ** (bits - 1)
    if zero_point is not None:
        zeros = unpacked(zero_point, bits)[:, : scale.shape[1], None].double()
    numbers = ((codes - zeros) * scale.double()[..., None]).flatten(1)[:, :width]
    product = (round_groups(states, group).double() @ numbers.t()).float()
    product = product if bias is None else product + bias
    return nn.functional.gelu(product) if gelu else product


@grouped_linear.register_fake
def _(
    states: Tensor,
    weight: Tensor,
    _scale: Tensor,
    _zero_point: Tensor | None,
    _bias: Tensor | None,
    _bits: int,
    _group: int,
    _gelu: bool,
) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


class GroupedLinear(nn.Module):
    """A linear module with weights in groups, in the layout of its scheme."""

    def __init__(self, linear: nn.Linear, scheme: WeightOnly) -> None:
        super().__init__()
        leaves = scheme.layout(tuple(linear.weight.shape), torch.float32)
        self.weight, self.scale = (
            meta_parameter(leaves[leaf][1], leaves[leaf][0]) for leaf in ("weight", "scale")
        )
        zeros = leaves.get("zero_point")
        self.zero_point = None if zeros is None else meta_parameter(zeros[1], zeros[0])
        self.bias = linear.bias
        self._bits, self._group = scheme.BITS, scheme.group_size

    def forward(self, states: Tensor) -> Tensor:
        # Conversions to the same type leave no node, so that GELU can be fused.
        floats = states if states.dtype == torch.float32 else states.float()
        bias = None if self.bias is None else self.bias.float()
        product: Tensor = grouped_linear(
            floats.contiguous(),
            self.weight,
            self.scale,
            self.zero_point,
            bias,
            self._bits,
            self._group,
            False,
        )
        return product if product.dtype == states.dtype else product.to(states.dtype)
