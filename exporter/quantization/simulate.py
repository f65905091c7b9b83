"""Run an original in float with a plan's own numbers: what its artifact should compute.

Weights are dequantized from the checkpoint by the quantizer, and activations are rounded as the
target rounds them. Kernels are not used, so that their errors show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from exporter.quantization.convolution import is_unfoldable, unfold, unfolded_weight
from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.weights import Weights

Round = Callable[[Tensor], Tensor]
CacheRound = Callable[[Tensor, int], Tensor]
"""Rounds keys or values [batch, length, width] of so many heads."""


class Structure(Protocol):
    """What a simulation asks of a family."""

    def runs_once(self, module: str) -> bool: ...

    def cache_of(self, module: str) -> Literal["window", "token"] | None: ...

    def cache_heads(self, model: Any) -> int: ...


@dataclass(frozen=True)
class Rounding:
    """How a target rounds, for one part of a model; None: not at all.

    Attributes:
        inputs: Rounds the inputs [batch, length, width] that one call gives to a quantized module.
        products: Rounds what a quantized module multiplies, before its bias is added.
        window_cache: Rounds what the cache of the audio keeps.
        token_cache: Rounds what the cache of the tokens keeps.
        dtype: The type in which the part computes.
        unfolded: Whether the inputs of a convolution are its rows of frames, else the frames.
    """

    inputs: Round | None = None
    products: Round | None = None
    window_cache: CacheRound | None = None
    token_cache: CacheRound | None = None
    dtype: torch.dtype = torch.float32
    unfolded: bool = True


@dataclass
class Simulation:
    """What a simulated model does, to be set between its passes.

    Attributes:
        calls: How many tokens each call of the decoder gets: a call's inputs are rounded together.
        inputs: Whether inputs and products of quantized modules are rounded.
        caches: Whether caches are rounded.
    """

    calls: Sequence[int] = ()
    inputs: bool = True
    caches: bool = True


class SimulatedLinear(nn.Module):
    """A linear module with a weight float [out, in], whose inputs and outputs are rounded."""

    def __init__(
        self,
        linear: nn.Linear,
        weight: Tensor,
        rounding: Rounding,
        outputs: Round | None,
        simulation: Simulation,
        *,
        once: bool,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = linear.bias
        self._rounding, self._outputs = rounding, outputs
        self._simulation, self._once = simulation, once

    def forward(self, states: Tensor) -> Tensor:
        rounded, active = states.float(), self._simulation.inputs
        inputs, products = self._rounding.inputs, self._rounding.products
        if inputs is not None and active:
            axis = 0 if self._once else 1  # windows are computed one by one
            sizes = [1] * len(rounded) if self._once else list(self._simulation.calls)
            rounded = torch.cat([inputs(each) for each in rounded.split(sizes, axis)], axis)
        bias = None if self.bias is None else self.bias.float()
        product = nn.functional.linear(rounded, self.weight.float())
        product = products(product) if products is not None and active else product
        product = product if bias is None else product + bias
        if self._outputs is not None and self._simulation.caches:
            product = self._outputs(product)
        return product.to(states.dtype)


class SimulatedConvolution(nn.Module):
    """A convolution whose unfolded frames are rounded: it runs once per window."""

    def __init__(
        self, conv: nn.Conv1d, weight: Tensor, rounding: Rounding, simulation: Simulation
    ) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = conv.bias
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self._rounding, self._simulation = rounding, simulation

    def forward(self, states: Tensor) -> Tensor:
        frames = nn.functional.pad(states.float(), (self.padding[0],) * 2).transpose(1, 2)
        rounded = frames if self._rounding.unfolded else self._rounded(frames)
        rows = unfold(rounded, self.kernel_size[0], self.stride[0])
        rows = self._rounded(rows) if self._rounding.unfolded else rows
        bias = None if self.bias is None else self.bias.float()
        product = nn.functional.linear(rows, unfolded_weight(self.weight.float()), bias)
        return product.transpose(1, 2).to(states.dtype)

    def _rounded(self, states: Tensor) -> Tensor:
        rounded = self._rounding.inputs
        if rounded is None or not self._simulation.inputs:
            return states
        return torch.cat([rounded(each) for each in states.split(1)])


def simulate(
    model: Any,
    weights: Weights,
    plan: QuantizationPlan,
    family: Structure,
    roundings: Callable[[str, IntegerScheme | None], Rounding],
) -> Simulation:
    """Make an original compute as a plan says, in place; return what controls its rounding.

    Args:
        model: The original in float32.
        weights: Reads and quantizes the checkpoint's tensors.
        plan: The schemes of the modules.
        family: The family, for what runs once per window and what caches keep.
        roundings: Gives how the target rounds at a module with a scheme.

    Raises:
        CheckpointError: A weight cannot be quantized.
    """
    simulation, heads = Simulation(), family.cache_heads(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding) and name in plan.quantized:
            module.weight = nn.Parameter(weights.dequantized(name), requires_grad=False)
        if is_unfoldable(module) and name in plan.quantized:
            rounding = roundings(name, plan.quantized[name])
            weight = weights.dequantized(name)
            replace_module(model, name, SimulatedConvolution(module, weight, rounding, simulation))
        if not isinstance(module, nn.Linear):
            continue
        rounding = roundings(name, plan.quantized.get(name))
        caches = {"window": rounding.window_cache, "token": rounding.token_cache}
        keep = caches.get(family.cache_of(name) or "")
        outputs = None if keep is None else partial(_kept, keep, heads)
        stored = module.weight.detach()
        if name in plan.quantized:
            stored = weights.dequantized(name)
        elif name in plan.modules and not weights.is_tied(f"{name}.weight"):
            dtype = plan.modules[name].layout(tuple(stored.shape), stored.dtype)["weight"][0]
            stored = stored.to(dtype).float()
        once = family.runs_once(name)
        new = SimulatedLinear(module, stored, rounding, outputs, simulation, once=once)
        replace_module(model, name, new)
    for name, module in model.named_modules():
        if name not in plan.quantized and not any(True for _ in module.children()):
            module.to(roundings(name, None).dtype)
    return simulation


def _kept(keep: CacheRound, heads: int, states: Tensor) -> Tensor:
    return keep(states, heads)
