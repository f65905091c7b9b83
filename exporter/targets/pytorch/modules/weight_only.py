"""weight-int4 and weight-int8 in torch: `_weight_int4pack_mm_for_cpu`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.weight_only import WeightOnly, grouped, unpacked

_ROWS = 16


class GroupedLinear(nn.Module):
    """A linear module with weights of 4 or 8 bits in groups, multiplied in bfloat16.

    torch has a product with 4-bit weights in groups, but with 8-bit ones only a scale per row. So
    a weight of 8 bits is the sum of two of 4: code = 16 * high + low. Weights take as many bits in
    memory as in the file. The product is fast in bfloat16 only (55 times as fast as in float32, in
    torch 2.13 with AVX-512), so it rounds inputs and outputs to it; it adds up in float32.
    """

    def __init__(
        self,
        _module: nn.Module,
        scheme: IntegerScheme,
        tensors: Mapping[str, Tensor],
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        assert isinstance(scheme, WeightOnly)
        codes, scale = unpacked(tensors["weight"], scheme.BITS), tensors["scale"]
        self.out_features, self.in_features = codes.shape
        self._group = scheme.group_size
        # torch's weight is (code - 8) * scale + offset; these offsets are exact in bfloat16.
        if scheme.BITS == 4:
            self._products = [self._packed(codes, scale, torch.zeros_like(scale))]
        else:
            high = self._packed(codes >> 4, 16 * scale, torch.zeros_like(scale))
            self._products = [high, self._packed(codes & 15, scale, 8 * scale)]
        # Zero points need more bits than bfloat16 has.
        middle = 2 ** (scheme.BITS - 1)
        self._offset = None if scheme.symmetric else (middle - scheme.zeros(tensors)) * scale
        self._bias = bias

    def _packed(self, codes: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes [out, in] and numbers [out, groups] as the product wants them."""
        rest = -self.in_features % self._group, -self.out_features % _ROWS
        padded = nn.functional.pad(codes, (0, rest[0], 0, rest[1])).int()
        both = nn.functional.pad(torch.stack([scale, offset], -1), (0, 0, 0, 0, 0, rest[1]))
        weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(padded, 1)
        return weight, both.transpose(0, 1).contiguous().bfloat16()

    def forward(self, states: Tensor) -> Tensor:
        groups = grouped(states.reshape(-1, self.in_features).bfloat16(), self._group)
        rows = groups.flatten(1)
        product: Tensor = sum(
            torch.ops.aten._weight_int4pack_mm_for_cpu(rows, weight, self._group, numbers).float()
            for weight, numbers in self._products
        )
        product = product[:, : self.out_features]
        if self._offset is not None:
            product = product + groups.float().sum(-1) @ self._offset.t()
        product = product if self._bias is None else product + self._bias
        return product.reshape(*states.shape[:-1], self.out_features)
