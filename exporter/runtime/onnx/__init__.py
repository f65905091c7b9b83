"""Graphs in onnxruntime, on numpy arrays."""

from pathlib import PurePath

WRITTEN = ".written"
"""Suffix of an output that is an input written in place."""

QUANTIZED = "_quantized"
"""Suffix by which transformers.js finds graphs with weights of 8 bits."""


def graph_name(path: PurePath) -> str:
    """Return the name of the graph in a file, in the layout of optimum or of transformers.js."""
    return path.stem.removesuffix(QUANTIZED)
