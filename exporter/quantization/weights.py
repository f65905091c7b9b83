"""Read a checkpoint's tensors by the names of a quantized model, quantizing on the way."""

from collections.abc import Mapping

import torch
from torch import Tensor

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.formats.tensor_io import FLOATS
from exporter.quantization.plan import QuantizationPlan


class Weights:
    """The tensors of a planned model by name, read and quantized on demand.

    A quantized module `m` has the tensors of its scheme, like `m.weight` (int8 [out, in]) and
    `m.scale` (float32 [out] or [1]); all others are as the checkpoint stores them. `tied` maps a
    module's parameter to the one that the checkpoint stores for it.
    """

    def __init__(
        self, checkpoint: Checkpoint, plan: QuantizationPlan, tied: Mapping[str, str]
    ) -> None:
        self._checkpoint = checkpoint
        self._plan = plan
        self._tied = tied
        self._codes: dict[str, Tensor] = {}
        self._small: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        """Return the tensor `name` of the planned model.

        All scales stay in memory, since they are small; codes only of the last module, until read.
        """
        module, _, leaf = name.rpartition(".")
        if module not in self._plan.quantized or leaf == "bias":
            return self._checkpoint.read(self._stored(name))
        if leaf == "weight":
            if module not in self._codes:
                self._quantize(module)
            return self._codes.pop(module)
        if name not in self._small:
            self._quantize(module)
        return self._small[name]

    def _quantize(self, module: str) -> None:
        stored = self._stored(f"{module}.weight")
        shape = self._checkpoint.tensors[stored].shape
        scheme = self._plan.quantized[module]
        numbers = scheme.quantize(lambda: self._checkpoint.blocks(stored), shape)
        self._codes = {module: numbers.pop("weight")}
        for leaf, tensor in numbers.items():
            self._checkpoint.require_finite(stored, tensor)
            self._small[f"{module}.{leaf}"] = tensor

    def dequantized(self, module: str) -> Tensor:
        """Return the float32 weight of a quantized module."""
        scheme, stored = self._plan.quantized[module], self._stored(f"{module}.weight")
        info = self._checkpoint.tensors[stored]
        leaves = scheme.layout(info.shape, FLOATS[info.dtype])
        return scheme.dequantize({leaf: self.read(f"{module}.{leaf}") for leaf in leaves})

    def is_tied(self, name: str) -> bool:
        """Return whether a parameter has the values of another one, which is stored for both."""
        return name not in self._checkpoint.tensors and name in self._tied

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor that `read` returns, without reading it."""
        module, _, leaf = name.rpartition(".")
        if module in self._plan.quantized and leaf != "bias":
            weight = self._checkpoint.tensors[self._stored(f"{module}.weight")]
            return self._plan.quantized[module].layout(weight.shape, FLOATS[weight.dtype])[leaf][0]
        return FLOATS[self._checkpoint.tensors[self._stored(name)].dtype]

    def _stored(self, name: str) -> str:
        return name if name in self._checkpoint.tensors else self._tied.get(name, name)
