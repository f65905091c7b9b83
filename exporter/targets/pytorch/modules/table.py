"""A token table in torch whose weights are the head's."""

from collections.abc import Mapping

from torch import Tensor, nn


class SharedTable(nn.Module):
    """Looks rows up in the codes [out, in] of an int8 head."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._codes, self._scale = tensors["weight"], tensors["scale"]

    def forward(self, ids: Tensor) -> Tensor:
        return self._codes[ids].float() * self._scale[ids][..., None]
