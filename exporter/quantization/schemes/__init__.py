"""The quantization schemes by name: one module each, and this registry.

To add one: a module here with a `Scheme` class, a line in `SCHEMES`, and the name in `SCHEMES` of
each target that can execute it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from exporter.system.registry import Registry

if TYPE_CHECKING:
    from exporter.quantization.schemes.base import QuantizationScheme


class SchemeModule(Protocol):
    """The interface of a scheme's module."""

    @property
    def Scheme(self) -> type[QuantizationScheme]:
        """The scheme's class, whose fields are its parameters in a recipe."""
        ...


FLOAT = "float"
DEFAULT = "dynamic-int8"

SCHEMES: Registry[SchemeModule] = Registry(
    "scheme",
    {
        FLOAT: "exporter.quantization.schemes.float",
        DEFAULT: "exporter.quantization.schemes.dynamic_int8",
        "static-int8": "exporter.quantization.schemes.static_int8",
        "weight-int4": "exporter.quantization.schemes.weight_int4",
        "weight-int8": "exporter.quantization.schemes.weight_int8",
    },
)
