"""What computes the operators of this project in a traced graph: torch's own, or our kernels."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from exporter.families import attention
from exporter.targets.aoti.cuda import product

Implementation = Callable[..., Any]

_WITH_KERNELS: tuple[Any, ...] = (
    attention.cached_attention,
    attention.audio_attention,
    product.row_product,
)
_OTHERS: tuple[Any, ...] = (attention.attention,)


class _Replacing(TorchFunctionMode):
    """Calls implementations in place of functions of torch."""

    def __init__(self, implementations: Mapping[Any, Implementation]) -> None:
        super().__init__()
        self._implementations = implementations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = self._implementations.get(func, func)
        return called(*args, **(kwargs or {}))


@contextmanager
def replaced(*, few: bool) -> Iterator[None]:
    """Trace our attention as torch's operators, in the block.

    Args:
        few: Whether kernels will compute it where there is one token a row, and products of few
            rows: these stay operators, for `with_kernels`.
    """
    implementations: dict[Any, Implementation] = {}
    for definition in (*_WITH_KERNELS, *_OTHERS):
        has_kernel = few and definition in _WITH_KERNELS
        implementations[definition._opoverload] = _computing(definition, few=has_kernel)
    if few:
        implementations[torch.nn.functional.linear] = product.linear
    with _Replacing(implementations):
        yield


def _computing(definition: Any, *, few: bool) -> Implementation:
    """Return what computes an operator: itself for few rows, if `few`; else its definition."""

    def call(states: torch.Tensor, *others: Any) -> Any:
        if few and product.is_few(states):
            with torch._C.DisableTorchFunction():
                return definition._opoverload(states, *others)
        return definition._init_fn(states, *others)

    return call


def with_kernels(graph: torch.fx.Graph) -> None:
    """Fuse products with their neighbours, and call our kernels for all that has one."""
    from exporter.targets.aoti.cuda.kernels import OF_STEP

    product.fuse_products(graph)
    kernels = {
        definition._opoverload: OF_STEP[definition._opoverload._schema.name]._opoverload
        for definition in _WITH_KERNELS
    }
    for node in graph.nodes:
        if node.op == "call_function" and node.target in kernels:
            node.target = kernels[node.target]
