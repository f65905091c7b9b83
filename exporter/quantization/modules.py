"""Replace modules and parameters in models on the `meta` device."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from exporter.quantization.weights import Weights


def keep_16bit_storage(model: nn.Module, weights: Weights) -> None:
    """Keep embedding tables and convolution kernels in the 16 bits that the checkpoint stores.

    The plan sets the precision of linear weights; biases and norms are too small to matter.
    """
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        stored = weights.dtype(name)
        table = parameter.ndim > 1 and not isinstance(module, nn.Linear)
        if table and stored.itemsize < parameter.itemsize:
            setattr(module, leaf, meta_parameter(tuple(parameter.shape), stored))


def meta_parameter(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """Return a parameter on `meta`, whose data is read later."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule `name` by `module`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


class OwnLayout(nn.Module, ABC):
    """A module in the place of another, which holds tensors as its target stores them."""

    @abstractmethod
    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return a parameter's tensor in the layout and type of the module.

        Args:
            leaf: The parameter's name in the module.
            tensor: The tensor, as the scheme stores it.
        """


def stored(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a parameter's tensor, as its scheme stores it, in the layout of its module.

    Args:
        model: The model, with its modules replaced.
        name: The parameter's name.
        tensor: The tensor.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    return module.stored(leaf, tensor) if isinstance(module, OwnLayout) else tensor
