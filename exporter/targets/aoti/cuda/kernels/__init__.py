"""Kernels in Triton for the operators of a decoder's step, compiled into its packages.

Importing this needs Triton. Each kernel is an operator too, which torch traces into, so that
AOTInductor compiles it; its meaning is that of the operator whose place it takes.
"""

from typing import Any

from exporter.targets.aoti.cuda.kernels import attention, product

OF_STEP: dict[str, Any] = {
    "exporter::cached_attention": attention.cached_attention,
    "exporter::audio_attention": attention.audio_attention,
    "exporter::row_product": product.row_product,
}
"""The kernels by the names of the operators that they compute, for one token a row."""
