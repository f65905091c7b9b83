"""The modules that take the place of a model's own while its graphs are traced."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exporter.quantize import absent

ONES = ".ones"


class Activations:
    """Quantizes activations to int8, a scale a row; once for modules that share them."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def quantize(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """[..., in] -> int8 [rows, in] and float32 scales [rows, 1]."""
        if self._seen is None or self._seen[0] is not states:
            rows = states.reshape(-1, states.shape[-1]).float()
            scale = (rows.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            self._seen = states, (rows / scale).round().to(torch.int8), scale
        return self._seen[1], self._seen[2]


class Int8Linear(nn.Module):
    """A linear module with weights int8 [out, in] and scales float32 [out].

    With `activations`, int8 x int8 by `_int_mm`, left as it is: for one row it is oneDNN's GEMV and
    needs no packing, so the stored bytes fit every CPU. Two traps are avoided. Inductor's own
    pattern (product, convert, times scale, times scale) becomes `qlinear` with signed activations,
    which is a reference loop on some CPUs; one product of both scales does not match it. And
    without VNNI oneDNN's int8 sums saturate at 16 bits, so weights are widened instead.
    """

    def __init__(self, linear: nn.Linear, activations: Activations | None) -> None:
        super().__init__()
        self.weight = absent(tuple(linear.weight.shape), torch.int8)
        self.scale = absent((linear.out_features,), torch.float32)
        self.bias = linear.bias
        self._activations = activations
        if activations is None:
            # The operator takes scales in bfloat16; ours are applied afterwards, in full. It wants
            # to see a weight there, so these are stored, and read as `ONES`.
            self.ones = absent((linear.out_features,), torch.bfloat16)

    def forward(self, states: Tensor) -> Tensor:
        if self._activations is not None:
            codes, step = self._activations.quantize(states)
            product = torch._int_mm(codes, self.weight.t()).float() * (step * self.scale)
        elif states.shape[-2] == 1:
            rows = states.reshape(-1, states.shape[-1]).bfloat16()
            product = torch._weight_int8pack_mm(rows, self.weight, self.ones).float() * self.scale
        else:
            widened = self.weight.to(states.dtype) * self.scale.to(states.dtype)[:, None]
            return nn.functional.linear(states, widened, self.bias)
        if self.bias is not None:
            product = product + self.bias.float()
        return product.to(states.dtype).reshape(*states.shape[:-1], -1)


class Converted(nn.Module):
    """A graph whose outputs have the types that the graphs after it take."""

    def __init__(self, module: nn.Module, dtypes: Sequence[torch.dtype | None]) -> None:
        super().__init__()
        self.module = module
        self._dtypes = tuple(dtypes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(*inputs)
        pairs = zip(outputs, self._dtypes, strict=True)
        return tuple(tensor if dtype is None else tensor.to(dtype) for tensor, dtype in pairs)
