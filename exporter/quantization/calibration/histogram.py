"""A histogram of all values that a tensor takes, in fixed memory, and the ranges it suggests.

The bins are symmetric about zero. When a value lies beyond them, their reach doubles, and pairs of
neighbours merge: nothing is counted twice, and no value is kept.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
Range = tuple[float, float]
Numbers = NDArray[np.float64]

BINS = 8192
_LEAST_REACH = 2.0**-60
_AT_ONCE = 1 << 22  # torch counts in float32, which is exact up to 2 ** 24
_LEVELS = 256
_STEPS = 64  # candidates for each end of a range
_THRESHOLDS = 128


class Histogram:
    """Counts of values in `BINS` bins from -reach to reach, with their exact extremes."""

    def __init__(self) -> None:
        self.counts: Numbers = np.zeros(BINS)
        self.reach = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, values: Tensor) -> bool:
        """Count the values of a float tensor; return False if one is not finite, and count none."""
        if not values.numel():
            return True
        flat = values.detach().float().flatten()
        low, high = (float(each) for each in flat.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high, _LEAST_REACH))
        for part in flat.split(_AT_ONCE):
            self.counts += torch.histc(part, BINS, -self.reach, self.reach).double().numpy()
        return True

    def _widen(self, peak: float) -> None:
        if not self.reach:
            self.reach = 2.0 ** math.ceil(math.log2(peak))
        while self.reach < peak:
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(inner, BINS // 4)
            self.reach *= 2

    @property
    def total(self) -> float:
        """The number of values."""
        return float(self.counts.sum())

    @property
    def edges(self) -> Numbers:
        """The edges of the bins, one more than there are bins."""
        return np.linspace(-self.reach, self.reach, BINS + 1)

    def range(self, method: Method, percentile: float) -> Range:
        """Return the ends of the range that a method chooses, with zero in it.

        At least one value must be counted.

        Args:
            method: `minmax`, the extremes; `percentile`, so many percent of the values, the same
                share cut off at both ends; `mse`, the least mean square error of quantizing to u8;
                `entropy`, the least divergence of the quantized distribution from the true one.
            percentile: The percentage that `percentile` keeps.
        """
        low, high = _CHOICES[method](self, percentile)
        return min(max(low, self.low), 0.0), max(min(high, self.high), 0.0)


def _minmax(histogram: Histogram, _percentile: float) -> Range:
    return histogram.low, histogram.high


def _percentile(histogram: Histogram, percentile: float) -> Range:
    below = np.concatenate([[0.0], histogram.counts.cumsum()]) / histogram.total
    cut = (100 - percentile) / 200
    ends = np.interp([cut, 1 - cut], below, histogram.edges)
    return float(ends[0]), float(ends[1])


def _mse(histogram: Histogram, _percentile: float) -> Range:
    """Search both ends together, then each alone, and the first of them again."""
    own = histogram.counts > 0
    centres = ((histogram.edges[1:] + histogram.edges[:-1]) / 2)[own]
    counts = histogram.counts[own]
    shares = np.arange(1, _STEPS + 1) / _STEPS
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def best(lows: Numbers, highs: Numbers) -> Range:
        errors = [_error(centres, counts, *ends) for ends in zip(lows, highs, strict=True)]
        index = int(np.argmin(errors))
        return float(lows[index]), float(highs[index])

    least, most = low, high
    low, high = best(least * shares, most * shares)
    for _ in range(2):
        low, high = best(np.full(_STEPS, low), most * shares)
        low, high = best(least * shares, np.full(_STEPS, high))
    return low, high


def _error(values: Numbers, counts: Numbers, low: float, high: float) -> float:
    """Return the sum of the squared errors of values quantized to the range."""
    step = (high - low) / (_LEVELS - 1)
    if step <= 0:
        return float((counts * values**2).sum())
    zero = round(-low / step)
    codes = np.clip(np.round(values / step) + zero, 0, _LEVELS - 1)
    return float((counts * (values - (codes - zero) * step) ** 2).sum())


def _entropy(histogram: Histogram, _percentile: float) -> Range:
    """Return the symmetric clipping with the least divergence, as TensorRT and onnxruntime do.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017.
    """
    peak = max(-histogram.low, histogram.high)
    width = 2 * histogram.reach / BINS
    chosen, least = peak, math.inf
    for index in range(1, _THRESHOLDS + 1):
        threshold = peak * index / _THRESHOLDS
        first = _bin(histogram, max(-threshold, min(histogram.low, 0.0)), width)
        last = _bin(histogram, min(threshold, max(histogram.high, 0.0)), width) + 1
        if last - first < _LEVELS and index < _THRESHOLDS:
            continue  # no level would hold two bins, and nothing would seem to be lost
        divergence = _divergence(histogram.counts, first, last)
        if divergence < least:
            chosen, least = threshold, divergence
    return -chosen, chosen


def _bin(histogram: Histogram, value: float, width: float) -> int:
    return min(max(int((value + histogram.reach) / width), 0), BINS - 1)


def _divergence(counts: Numbers, first: int, last: int) -> float:
    """Return the divergence of bins quantized to `_LEVELS` from the same with the rest clipped."""
    inside = counts[first:last]
    if inside.sum() < counts.sum() / 2:  # most would be clipped into one bin, which is like itself
        return math.inf
    true = inside.copy()
    true[0] += counts[:first].sum()
    true[-1] += counts[last:].sum()
    levels = np.arange(len(inside)) * _LEVELS // len(inside)
    sums = np.bincount(levels, inside, _LEVELS)
    filled = np.bincount(levels, inside > 0, _LEVELS)
    shares = np.divide(sums, filled, out=np.zeros(_LEVELS), where=filled > 0)
    quantized = np.where(inside > 0, shares[levels], 0.0)
    held = true > 0
    quantized = np.maximum(quantized[held], 1e-4 * true[held].min())  # a clipped bin may be empty
    p, q = true[held] / true.sum(), quantized / quantized.sum()
    return float((p * np.log(p / q)).sum())


_CHOICES: dict[Method, Callable[[Histogram, float], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
