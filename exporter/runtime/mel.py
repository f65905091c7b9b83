"""Mel filters."""

import numpy as np
from numpy.typing import NDArray

_TOP_HZ = 8000.0  # of the highest filter, whatever the rate
_LINEAR_HZ, _LINEAR_MELS = 1000.0, 15.0  # Slaney's scale is linear up to here
_STEP = np.log(6.4) / 27.0  # and logarithmic above


def mel_filters(mels: int, rate: int, size: int) -> NDArray[np.float64]:
    """Return Slaney's triangular filters [mels, frequencies], from 0 to 8,000 Hz.

    Source: `mel_filter_bank` of transformers with `norm` and `mel_scale` "slaney".
    """
    top = _LINEAR_MELS + np.log(_TOP_HZ / _LINEAR_HZ) / _STEP
    edges = _hertz(np.linspace(0.0, top, mels + 2))
    bins = np.linspace(0, rate // 2, 1 + size // 2)
    areas: NDArray[np.float64] = 2.0 / (edges[2:] - edges[:-2])
    return triangles(edges, bins) * areas[:, None]


def triangles(edges: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return triangular filters [filters, bins] between the edges of each and its neighbours."""
    slopes, widths = edges[:, None] - bins, np.diff(edges)[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return filters


def filtered(filters: NDArray[np.float64], powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply filters [filters, frequencies] with powers [frames, frequencies].

    Without BLAS, whose threads keep the cores busy for a while after a product, just when a graph's
    threads need them: with OpenBLAS on two cores, a clip of the demo took 1.3 to 3.7 times as long.
    A filter has a few frequencies only, so this takes no longer.

    Returns:
        Sums [filters, frames].
    """
    columns = np.ascontiguousarray(powers.T)
    sums = np.zeros((len(filters), len(powers)))
    for weights, row in zip(filters, sums, strict=True):
        (places,) = np.nonzero(weights)
        if len(places):
            own = slice(places[0], places[-1] + 1)
            np.einsum("bf,b->f", columns[own], weights[own], out=row)
    return sums


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * _LINEAR_HZ / _LINEAR_MELS
    return np.where(mel < _LINEAR_MELS, linear, _LINEAR_HZ * np.exp(_STEP * (mel - _LINEAR_MELS)))
