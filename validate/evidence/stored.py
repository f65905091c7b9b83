"""Compare an artifact's weights with what the plan makes of the checkpoint, number by number."""

from collections.abc import Iterable

import torch
from torch import Tensor

from exporter.targets.inspection import StoredWeight

_TOLD = 5  # weights that are told one by one


def differing_weights(weights: Iterable[StoredWeight]) -> list[str]:
    """Return a sentence for each weight that differs, at most a few, then their number."""
    told: list[str] = []
    more = 0
    for weight in weights:
        sentence = _difference(weight)
        if sentence and len(told) < _TOLD:
            told.append(f"{weight.name} in {weight.file} {sentence}")
        elif sentence:
            more += 1
    return [*told, f"{more} more weights differ"] if more else told


def _difference(weight: StoredWeight) -> str:
    """Return how a weight differs, or nothing."""
    stored, expected = weight.stored, weight.expected
    if stored is None:
        return "is missing"
    if expected is None:
        return "is not a weight of this model"
    if stored.shape != expected.shape:
        return f"has the shape {list(stored.shape)}, not {list(expected.shape)}"
    if stored.dtype != expected.dtype:
        ours, theirs = (str(each.dtype).removeprefix("torch.") for each in (stored, expected))
        return f"is {ours}, and the manifest's options make it {theirs}"
    if _bits(stored).equal(_bits(expected)):
        return ""
    return _described(stored, expected)


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, since NaN equals nothing and -0 equals 0."""
    return tensor.contiguous().flatten().view(torch.uint8)


def _described(stored: Tensor, expected: Tensor) -> str:
    """Tell how many numbers differ, and what they may have become."""
    ours, theirs = stored.double(), expected.double()
    wrong = int((ours != theirs).sum()) or 1
    share = f"{wrong:,} of {ours.numel():,} numbers differ"
    if not bool(ours.isfinite().all()):
        return f"holds NaN or infinity: {share}"
    if not bool(ours.any()):
        return "is all zeros"
    factor = float((ours * theirs).sum() / theirs.square().sum()) if bool(theirs.any()) else 1.0
    if bool(torch.allclose(ours, factor * theirs, rtol=1e-3, atol=0)):
        return f"is {factor:.4g} times what the checkpoint gives"
    if ours.flatten().sort().values.equal(theirs.flatten().sort().values):
        return f"holds the right numbers in another order: {share}"
    most = float((ours - theirs).abs().max())
    return f"is not what the checkpoint gives: {share}, by up to {most:.3g}"
