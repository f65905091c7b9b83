"""A token table in aoti whose weights are the head's."""

from typing import Any

from torch import Tensor, nn

from exporter.targets.aoti.modules.dynamic_int8 import Int8Linear


class SharedTable(nn.Module):
    """Looks rows up in the codes [out, in] of an int8 head."""

    def __init__(self, head: Int8Linear) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it is not a submodule here

    def forward(self, ids: Tensor) -> Tensor:
        head: Any = self._head[0]
        rows: Tensor = head.weight[ids].float() * head.scale[ids][..., None]
        return rows
