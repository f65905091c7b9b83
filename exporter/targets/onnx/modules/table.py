"""A token table in ONNX whose weights are the head's, a row for each token."""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.quantization.modules import OwnLayout, meta_parameter
from exporter.targets.onnx.modules import integers
from exporter.targets.onnx.modules.dynamic_int8 import Int8MatMul, int8_matmul


class SharedHead(OwnLayout):
    """An int8 head with its weight [out, in], in which tokens are rows.

    onnxruntime transposes and packs it when a graph is opened, and so keeps no second copy in
    memory: of the weight itself, only rows that are looked up are read.
    """

    def __init__(self, head: Int8MatMul) -> None:
        super().__init__()
        wide, tokens = head.weight.shape
        self.weight = meta_parameter((tokens, wide), head.weight.dtype)
        self.scale = head.scale
        self.bias = head.bias

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = int8_matmul(states, self.weight.t(), self.scale)
        return product if self.bias is None else product + self.bias

    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return the codes as [out, in], in the type of the graph."""
        return integers.stored(tensor, self.weight.dtype).t() if leaf == "weight" else tensor


class SharedTable(nn.Module):
    """Looks rows up in the codes of an int8 head."""

    def __init__(self, head: SharedHead) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it is not a submodule here

    def forward(self, ids: Tensor) -> Tensor:
        head: Any = self._head[0]
        flat = ids.reshape(-1)
        rows = torch.index_select(head.weight, 0, flat).float()
        if head.weight.dtype == torch.uint8:
            rows = rows - integers.UNSIGNED_ZERO
        scaled = rows * torch.index_select(head.scale, 0, flat)[:, None]
        return scaled.reshape(*ids.shape, -1)
