"""How onnx-fp16 rounds, and its stored weights beside the checkpoint's."""

from collections.abc import Iterator
from pathlib import Path

import torch

from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.families.graph import GraphFunction
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.simulate import Rounding
from exporter.targets.inspection import StoredWeight
from exporter.targets.onnx.cuda.target import form
from exporter.targets.onnx.inspection import stored_as

EXACT = False


def rounding(
    manifest: Manifest, scheme: IntegerScheme | None, *, graph: str, once: bool, narrow: bool
) -> Rounding:
    """Return that everything is computed in float16."""
    return Rounding(dtype=torch.float16)


def stored(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, family: Family
) -> Iterator[StoredWeight]:
    """Yield every initializer of every graph that has a name of the model's."""
    yield from stored_as(form(), folder, manifest, checkpoint, family)


def unrounded(folder: Path, manifest: Manifest, family: Family, threads: int) -> None:
    """Return None: every operation of these graphs rounds."""
    return


def others(folder: Path, manifest: Manifest, threads: int) -> dict[str, GraphFunction]:
    """Return nothing: the graphs for optimum are not opened on a card here."""
    return {}
