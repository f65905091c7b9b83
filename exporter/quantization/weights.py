"""A checkpoint's tensors by the names of a quantized model, quantized while they are read."""

from collections.abc import Mapping

import torch
from torch import Tensor

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.formats.tensor_io import FLOATS
from exporter.quantization.int8 import quantize
from exporter.quantization.plan import Plan


class Weights:
    """The tensors of a planned model by name, read and quantized when asked for.

    A planned module `m` has `m.weight` (int8 [out, in]) and `m.scale` (float32 [out] or [1]); all
    other tensors come as the checkpoint stores them. `tied` maps a module's parameter to the one
    that the checkpoint stores for it.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan, tied: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._plan = plan
        self._tied = tied
        self._codes: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        """The tensor `name` of the planned model.

        Scales are kept, since they are small; of codes only those last read, until asked for.
        """
        module, _, leaf = name.rpartition(".")
        if module not in self._plan.modules or leaf == "bias":
            return self._checkpoint.read(self._stored(name))
        if leaf == "weight":
            if module not in self._codes:
                self._quantize(module)
            return self._codes.pop(module)
        if module not in self._scales:
            self._quantize(module)
        return self._scales[module]

    def _quantize(self, module: str) -> None:
        stored = self._stored(f"{module}.weight")
        shape = self._checkpoint.tensors[stored].shape
        codes, scales = quantize(
            lambda: self._checkpoint.blocks(stored), shape, self._plan.modules[module]
        )
        self._checkpoint.require_finite(stored, scales)
        self._codes = {module: codes}
        self._scales[module] = scales

    def dtype(self, name: str) -> torch.dtype:
        """The type that `read` will give, without reading."""
        module, _, leaf = name.rpartition(".")
        if module in self._plan.modules and leaf != "bias":
            return torch.int8 if leaf == "weight" else torch.float32
        return FLOATS[self._checkpoint.tensors[self._stored(name)].dtype]

    def _stored(self, name: str) -> str:
        return name if name in self._checkpoint.tensors else self._tied.get(name, name)
