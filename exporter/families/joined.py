"""Linear modules with the same input as one product, whose rows are theirs one after another.

A decoder's step reads each weight once and computes little, so that every product less is one
kernel less. Weights are joined when they are stored: nothing is copied where they are used.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Beside(nn.Module):
    """Calls modules that cannot be joined, and returns their results side by side."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(modules)

    def forward(self, states: Tensor) -> Tensor:
        return torch.cat([module(states) for module in self.members], -1)


def join(owner: nn.Module, name: str, members: Sequence[str]) -> nn.Module:
    """Return one module in place of several linear ones, and make it the owner's.

    Modules that a target has put in the place of linear ones are joined too, if each of their
    tensors has the outputs as its first axis, and theirs is one class. Others stay apart. The
    model keeps the members: tensors that were joined are named by `join`, their sources by them.

    Args:
        owner: The module that has the members.
        name: The name that the owner gets it under. If it has one already, that is returned.
        members: The names of the members, in the order of the results.
    """
    if name in owner._modules:
        return owner.get_submodule(name)
    modules = [getattr(owner, member) for member in members]
    leaves = sorted({leaf for module in modules for leaf in module.state_dict(keep_vars=True)})
    if not _joinable(modules, leaves):
        return Beside(modules)
    joined: nn.Module = copy.copy(modules[0])
    joined._parameters, joined._buffers = {}, {}
    for leaf in leaves:
        tensor = torch.cat(_filled([getattr(module, leaf) for module in modules], modules))
        joined.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    joined.joined = tuple(members)  # type: ignore[assignment]
    setattr(owner, name, joined)
    return joined


def read_joined(model: nn.Module, name: str, read: Callable[[str], Tensor]) -> Tensor:
    """Read a tensor of a model, joined of several stored ones if it is of a joined module.

    Args:
        model: The model, after `join`.
        name: The tensor's name in it.
        read: Reads a tensor that is stored, by its name in the model.
    """
    path, _, leaf = name.rpartition(".")
    members = getattr(model.get_submodule(path), "joined", None)
    if members is None:
        return read(name)
    outer = path.rpartition(".")[0]
    owner = model.get_submodule(outer)
    modules = [getattr(owner, member) for member in members]
    tensors = [
        None if getattr(module, leaf) is None else read(f"{outer}.{member}.{leaf}")
        for member, module in zip(members, modules, strict=True)
    ]
    return torch.cat(_filled(tensors, modules))


def _joinable(modules: Sequence[Any], leaves: Sequence[str]) -> bool:
    if len({type(module) for module in modules}) > 1:
        return False
    tensors = [(module, getattr(module, leaf)) for module in modules for leaf in leaves]
    return all(
        tensor is None or (tensor.dim() > 0 and len(tensor) == len(module.weight))
        for module, tensor in tensors
    )


def _filled(tensors: Sequence[Tensor | None], modules: Sequence[Any]) -> list[Tensor]:
    """Return tensors with zeros for those that are missing: a bias that a module has not."""
    like = next(tensor for tensor in tensors if tensor is not None)
    return [
        like.new_zeros(len(module.weight), *like.shape[1:]) if tensor is None else tensor
        for tensor, module in zip(tensors, modules, strict=True)
    ]
