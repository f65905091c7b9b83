"""What each kernel of a compiled graph is for, told by its name and place.

AOTInductor marks what it calls (`aoti_torch_cpu_` and an operator) and the loops that it wrote
itself (`cpp_fused_` and the operators that it fused).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PRODUCTS, HEAD = "int8 products, quantizing included", "the vocabulary's projection"
OWN, AUDIO, ATTENTION = "attention to its own", "attention to the audio", "attention"
CONVOLUTIONS, PACKING = "convolutions", "the audio's keys and values to int8"
LOOPS = "norms, sums and other loops"
ORDER = (PRODUCTS, HEAD, ATTENTION, AUDIO, OWN, CONVOLUTIONS, LOOPS, PACKING)

_CALLED = re.compile(r"aoti_torch_\w*?cpu_+(?P<operator>\w+)")
_OPERATORS = {
    r"step_attention": OWN,
    r"window_attention": AUDIO,
    r"attention": ATTENTION,
    r"conv": CONVOLUTIONS,
    r"linear|mm(_|$)": PRODUCTS,
    r"keep_window": PACKING,
}
_PACKED = {"rshift", "bitwise", "stack", "cat", "pack", "packed"}


def kinds(graph: str, names: Sequence[str]) -> list[str]:
    """The kind of each kernel of one call, in order; a decoder's last product is its head."""
    found = [_kind(graph, name) for name in names]
    if graph == "decoder" and PRODUCTS in found:
        found[len(found) - 1 - found[::-1].index(PRODUCTS)] = HEAD
    return found


def _kind(graph: str, name: str) -> str:
    if called := _CALLED.fullmatch(name):
        for pattern, kind in _OPERATORS.items():
            if re.search(pattern, called["operator"]):
                return kind
    packed = graph == "encoder" and _PACKED & set(name.split("_"))
    return PACKING if packed else LOOPS
