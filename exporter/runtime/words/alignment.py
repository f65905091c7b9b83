"""Align tokens with the audio by the decoder's attention.

Source: `find_alignment`, `median_filter` and `dtw` of openai-whisper, `timing.py`. Products are
numpy's own sums, because threads of BLAS would go on spinning beside those of the graphs.
"""

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.whisper.engine import Attention

Matrix = NDArray[np.float32]
"""How much each token attends to each place of the audio, [tokens, source]."""

Places = NDArray[np.int64]
"""Places of the audio, in steps of 20 ms."""

_WIDTH = 7  # of the median filter
# The pairs of a network that leaves the median of seven values in the middle.
# Source: N. Devillard, "Fast median search", `opt_med7`.
_PAIRS = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)


def attended(attention: Attention, length: int) -> Matrix:
    """Return how much each token attends to each place, as a mean over heads.

    Args:
        attention: What tokens attend with.
        length: Places of the audio that hold sound; the window's silence after it takes no part.
    """
    heads, tokens, _ = attention.queries.shape
    total = np.zeros((tokens, length), np.float32)
    for query, key in zip(attention.queries, attention.keys, strict=True):
        weights = np.einsum("td,ds->ts", query, key[:, :length])
        weights -= weights.max(-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(-1, keepdims=True)
        weights -= weights.mean(0)
        # A place that no token attends to has no deviation.
        weights /= np.maximum(weights.std(0), np.finfo(np.float32).tiny)
        total += median_filtered(weights)
    total /= heads
    return total


def median_filtered(values: Matrix) -> Matrix:
    """Replace each value by the median of seven around it in its row, reflected at the ends."""
    half = _WIDTH // 2
    length = values.shape[-1]
    if length <= half:
        return values
    padded = np.pad(values, ((0, 0), (half, half)), mode="reflect")
    columns = [padded[:, start : start + length] for start in range(_WIDTH)]
    for low, high in _PAIRS:
        first, second = columns[low], columns[high]
        columns[low], columns[high] = np.minimum(first, second), np.maximum(first, second)
    return columns[half]


def first_places(matrix: Matrix) -> Places:
    """Return where each token begins, by dynamic time warping: the path of the largest sum.

    A path goes from the first token and place to the last ones, by a token, a place or both. With
    sums from the left, the best cost of a row is a running minimum, so that a row is one call of
    numpy.

    Args:
        matrix: What tokens attend to [tokens, places], one of each at least.

    Returns:
        The first place of each token on the path [tokens].
    """
    tokens, length = matrix.shape
    costs = -matrix.astype(np.float64)
    places = np.arange(length)
    begins = np.zeros((tokens, length), np.int64)  # of a token that the path leaves at a place
    diagonal = np.zeros((tokens, length), bool)  # whether both change there
    best = np.cumsum(costs[0])
    for row in range(1, tokens):
        diagonal[row, 1:] = best[:-1] <= best[1:]
        entered = best.copy()
        np.minimum(best[1:], best[:-1], out=entered[1:])
        sums = np.cumsum(costs[row])
        entered[1:] -= sums[:-1]
        lowest = np.minimum.accumulate(entered)
        new = np.concatenate(([True], entered[1:] < lowest[:-1]))
        begins[row] = np.maximum.accumulate(np.where(new, places, 0))
        best = sums + lowest
    return _traced(begins, diagonal)


def _traced(begins: Places, diagonal: NDArray[np.bool_]) -> Places:
    """Follow the path back from its end; return the first place of each token."""
    tokens, length = begins.shape
    firsts = np.zeros(tokens, np.int64)
    place = length - 1
    for row in range(tokens - 1, 0, -1):
        place = firsts[row] = begins[row, place]
        place -= int(diagonal[row, place])
    return firsts
