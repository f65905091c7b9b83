"""A checkpoint whose function is that of another, and that does not bear int8 in some layers.

As in large language models, a few channels of some activations are much larger than the others:
one scale for all of them rounds the others away.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

_OUTLIERS = 6  # channels


def make_fragile(
    source: Path, folder: Path, blocks: Sequence[str], times: float = 512.0, fed: str = "fc1"
) -> Path:
    """Copy a checkpoint as float32 and scale what some feed-forward blocks hear.

    A channel of a layer norm is multiplied, and the columns of the module that it feeds are
    divided by the same power of two, so that the float function stays as it is.

    Args:
        source: The checkpoint.
        folder: Where the copy goes.
        blocks: Layers by name, like `model.encoder.layers.1`.
        times: The factor.
        fed: The module of a block that its `final_layer_norm` feeds, and nothing else.
    """
    shutil.copytree(source, folder)
    tensors = {name: each.float() for name, each in load_file(source / "model.safetensors").items()}
    for block in blocks:
        for channel in range(_OUTLIERS):
            for leaf in ("weight", "bias"):
                tensors[f"{block}.final_layer_norm.{leaf}"][channel] *= times
            tensors[f"{block}.{fed}.weight"][:, channel] /= times
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
