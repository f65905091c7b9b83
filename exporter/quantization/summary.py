"""Summarise a plan in rows: each pattern with its modules, and their bytes before and after."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.formats.tensor_io import FLOATS, Layout
from exporter.quantization.plan import Match
from exporter.quantization.schemes.base import IntegerScheme

Row = dict[str, Any]


def rows(
    matches: Iterable[Match], model: nn.Module, checkpoint: Checkpoint, tied: Mapping[str, str]
) -> list[Row]:
    """Return a row per pattern, and last the default's unless no module is left for it.

    `bytes_before` is the size of the weights in the checkpoint, `bytes_after` that of the tensors
    that the schemes store. A tied weight counts as zero bytes unless it is quantized.

    Args:
        matches: The matches of `match_rules`.
        model: The model, without weights.
        checkpoint: The checkpoint, for the stored types.
        tied: Maps tied parameters to the parameters that are stored for them.
    """
    return [_row(match, model, checkpoint, tied) for match in matches if match.modules]


def _row(match: Match, model: nn.Module, checkpoint: Checkpoint, tied: Mapping[str, str]) -> Row:
    scheme, shared, before, after = match.scheme, [], 0, 0
    for name in match.modules:
        weight = f"{name}.weight"
        own = weight in checkpoint.tensors or weight not in tied
        info = checkpoint.tensors.get(weight if own else tied[weight])
        stored = FLOATS[info.dtype] if info else torch.float32
        shape = tuple(model.get_parameter(weight).shape)
        before += _bytes({weight: (stored, shape)}) if own else 0
        looked_up = isinstance(model.get_submodule(name), nn.Embedding)
        if isinstance(scheme, IntegerScheme) and looked_up:
            continue  # the head, which has the same weights, counts
        if own or isinstance(scheme, IntegerScheme):
            after += _bytes(scheme.layout(shape, stored))
            shared += [] if own else [name]
    return {
        "pattern": match.pattern,
        "modules": len(match.modules),
        "scheme": scheme.name,
        "label": str(scheme),
        "parameters": scheme.parameters,
        "tied": shared,
        "bytes_before": before,
        "bytes_after": after,
    }


def _bytes(layout: Layout) -> int:
    return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in layout.values())
