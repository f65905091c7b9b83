"""The description of a package, which its member `extra/exporter.json` holds."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exporter.errors import IntegrityError

BITS = {
    **{"uint8": 8, "int8": 8, "int16": 16, "int32": 32, "int64": 64, "bool": 8},
    **{"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64},
}
"""The types of tensors, by torch's names, and their bits."""

# The exceptions that an invalid description raises.
_NO_SPEC = (
    *(zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError, AttributeError),
    RecursionError,
)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a package; text in the shape names a dynamic axis."""

    dtype: str
    shape: tuple[int | str, ...]
    mutated: bool = False


@dataclass(frozen=True)
class Constant:
    """A weight that a package uses: the stored tensor's name, and its type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """A package's inputs and outputs, in order, and its weights, by the package's names.

    `needs_torch` is False if the package's library has the interface of `exporter_graph.h`. With
    `passed`, every call takes the weights, in their order, before the inputs: the package then
    serves all layers that are like the one it was compiled of, whose weights it names.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    constants: Mapping[str, Constant]
    needs_torch: bool = True
    passed: bool = False

    def as_json(self) -> str:
        """Return the member's text."""
        sides = asdict(self)
        if not self.passed:
            del sides["passed"]  # as earlier releases write it
        return json.dumps(sides)


def parse(text: bytes, shown: object) -> Spec:
    """Read a description.

    Args:
        text: The member.
        shown: What messages call the package.

    Raises:
        IntegrityError: It is not one that the target `aoti` writes.
    """
    try:
        sides = json.loads(text)
        inputs, outputs = (
            {name: _tensor(told) for name, told in sides[side].items()}
            for side in ("inputs", "outputs")
        )
        constants = {
            own: Constant(c["name"], _dtype(c["dtype"]), tuple(c["shape"]))
            for own, c in sides["constants"].items()
        }
        # Packages of earlier releases do not tell: they are linked to libtorch.
        needs_torch = sides.get("needs_torch", True) is not False
        return Spec(inputs, outputs, constants, needs_torch, sides.get("passed", False) is True)
    except _NO_SPEC as error:
        msg = f"{shown} is not a package of ours ({error}): build or fetch the artifact again"
        raise IntegrityError(msg) from error


def _tensor(told: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(_dtype(told["dtype"]), tuple(told["shape"]), told["mutated"])


def _dtype(name: str) -> str:
    """Return the name if it is a known type; else raise ValueError."""
    if name not in BITS:
        msg = f"no type {name!r}"
        raise ValueError(msg)
    return name
