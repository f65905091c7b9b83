"""weight-int4 and weight-int8 in torch: `_weight_int4pack_mm_for_cpu`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.weight_only import WeightOnly, unpacked

_ROWS = 16
_HALF = 8


class GroupedLinear(nn.Module):
    """A linear module with weights of 4 or 8 bits in groups, multiplied in float32.

    torch has a product with 4-bit weights in groups, but with 8-bit ones only a scale per row. So
    a weight of 8 bits is the sum of two of 4: code = 16 * high + low. Weights take as many bits in
    memory as in the file. Inputs are not rounded.
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
        self._padding = scheme.groups(self.in_features) * self._group - self.in_features
        # torch's weight is (code - 8) * scale + offset.
        offset = (_HALF - scheme.zeros(tensors)) * scale
        if scheme.BITS == 4:
            self._products = [self._packed(codes, scale, offset)]
        else:
            high = self._packed(codes >> 4, 16 * scale, 16 * _HALF * scale)
            self._products = [high, self._packed(codes & 15, scale, offset)]
        self._bias = bias

    def _packed(self, codes: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes [out, in] and numbers [out, groups] as the product wants them."""
        rows = -self.out_features % _ROWS
        padded = nn.functional.pad(codes, (0, self._padding, 0, rows)).int()
        both = nn.functional.pad(torch.stack([scale, offset], -1), (0, 0, 0, 0, 0, rows))
        weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(padded, 1)
        return weight, both.transpose(0, 1).contiguous()

    def forward(self, states: Tensor) -> Tensor:
        rows = states.reshape(-1, self.in_features)
        if self._padding:
            rows = nn.functional.pad(rows, (0, self._padding))
        product: Tensor = sum(
            torch.ops.aten._weight_int4pack_mm_for_cpu(rows, weight, self._group, numbers)
            for weight, numbers in self._products
        )
        product = product[:, : self.out_features]
        product = product if self._bias is None else product + self._bias
        return product.reshape(*states.shape[:-1], self.out_features)
