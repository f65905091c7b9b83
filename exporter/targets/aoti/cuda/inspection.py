"""How a GPU's packages round, and their stored weights beside the checkpoint's."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.attention import kept
from exporter.formats.tensor_io import Layout
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.simulate import Rounding
from exporter.targets.aoti.cuda.builder import cut, tensors_of
from exporter.targets.aoti.cuda.load import WEIGHTS
from exporter.targets.aoti.cuda.target import recipe_of
from exporter.targets.aoti.options import Options
from exporter.targets.inspection import StoredWeight


def rounding(options: Options, *, narrow: bool) -> Rounding:
    """Return the rounding of both caches to the model's type, or of the audio's to int8.

    Inputs of products are not rounded to integers.
    """
    dtype: torch.dtype = getattr(torch, str(options.dtype))

    def shortened(states: Tensor, heads: int) -> Tensor:
        return states.to(dtype).float()

    return Rounding(
        inputs=None,
        window_cache=kept if narrow else shortened,
        token_cache=shortened,
        dtype=dtype,
    )


def stored(
    folder: Path, options: Options, plan: QuantizationPlan, checkpoint: Checkpoint
) -> Iterator[StoredWeight]:
    """Yield every tensor of the weights' file, and those that it lacks."""
    whole = cut(recipe_of(options, plan, checkpoint))
    expected: Layout = {}
    for part in whole.parts:
        expected |= tensors_of(folder, part, whole)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        names = set(file.keys())
        for name, (dtype, shape) in expected.items():
            there = file.get_tensor(name) if name in names else None
            tensor = whole.read(name).to(dtype).expand(shape)
            yield StoredWeight(WEIGHTS, name, there, tensor)
        for name in sorted(names - expected.keys()):
            yield StoredWeight(WEIGHTS, name, file.get_tensor(name), None)
