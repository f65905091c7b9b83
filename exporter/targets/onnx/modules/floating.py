"""float in ONNX: `MatMul` with a weight [in, out]."""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.quantization.modules import OwnLayout, meta_parameter
from exporter.quantization.schemes.float import Scheme as Float


class FloatMatMul(OwnLayout):
    """A linear module in float, with its weight [in, out] in ONNX's layout.

    It has the type of the model, unless the scheme says otherwise.
    """

    def __init__(self, linear: nn.Linear, scheme: Float, _integers: torch.dtype) -> None:
        super().__init__()
        dtype = scheme.storage(linear.weight.dtype)
        self.weight = meta_parameter((linear.in_features, linear.out_features), dtype)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product = states @ self.weight.to(states.dtype)
        return product if self.bias is None else product + self.bias.to(states.dtype)

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the weight as [in, out]."""
        return tensor.t() if leaf == "weight" else tensor


class TiedMatMul(nn.Module):
    """A float head whose weight is the embedding table, stored once."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self._table = (table,)  # in a tuple, so that it is not a submodule here

    def forward(self, states: Tensor) -> Tensor:
        table: Any = self._table[0].weight
        product: Tensor = states @ table.to(states.dtype).t()
        return product


replacement = FloatMatMul
NODES: dict[Any, Any] = {}
