"""A token table in ONNX whose weights are the head's."""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.targets.onnx.modules.dynamic_int8 import Int8MatMul
from exporter.targets.onnx.modules.integers import UNSIGNED_ZERO


class SharedTable(nn.Module):
    """Looks rows up in the codes of an int8 head, which are columns [in, out] there."""

    def __init__(self, head: Int8MatMul) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it is not a submodule here

    def forward(self, ids: Tensor) -> Tensor:
        head: Any = self._head[0]
        flat = ids.reshape(-1)
        rows = torch.index_select(head.weight, 1, flat).t().float()
        if head.weight.dtype == torch.uint8:
            rows = rows - UNSIGNED_ZERO
        scaled = rows * torch.index_select(head.scale, 0, flat)[:, None]
        return scaled.reshape(*ids.shape, -1)
