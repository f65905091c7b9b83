"""The interface of modules that replace a model's own for ONNX."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class OnnxModule(nn.Module, ABC):
    """A module whose parameters are as an ONNX graph stores them."""

    @abstractmethod
    def stored(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return a parameter's tensor in the layout and type of the graph.

        Args:
            leaf: The parameter's name in the module.
            tensor: The tensor, as the scheme stores it.
        """
