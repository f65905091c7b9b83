"""Compare the ranges of static quantization with what the original's modules get from clips.

A build calibrated on other recordings, so no range need be that of these clips. What counts is the
error: that of rounding and clipping these inputs, beside what the same method would have left. How
much of it is chance shows between two halves of the clips: methods that follow the extremes, as
`minmax` does, choose other ranges of every draw.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from torch import Tensor, nn

from exporter.artifact.manifest import Calibration
from exporter.quantization.calibration.histogram import METHODS, Histogram, Method, Range
from exporter.quantization.plan import QuantizationPlan
from exporter.validate.evidence.results import RangeFit

_LEVELS = 255
_PERCENTILE = 99.99


class Inputs:
    """Histograms of modules' inputs: of all clips, and of either half of them.

    Attributes:
        clip: The number of the clip that runs, to be set before it does.
        counted: By module: of all clips, of the even ones, and of the odd ones.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.clip = 0
        self.counted = {name: (Histogram(), Histogram(), Histogram()) for name in modules}

    def add(self, name: str, values: Tensor) -> None:
        """Count the values of a module's input."""
        for histogram in (self.counted[name][0], self.counted[name][1 + self.clip % 2]):
            histogram.add(values)


@contextmanager
def counting(model: nn.Module, modules: Sequence[str]) -> Iterator[Inputs]:
    """Count the inputs of those modules that a model has, while it runs."""
    known = dict(model.named_modules())
    found = Inputs([name for name in modules if name in known])

    def count(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.add(name, inputs[0])

    handles = [
        known[name].register_forward_pre_hook(partial(count, name)) for name in found.counted
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def fits(
    inputs: Inputs, plan: QuantizationPlan, calibration: Calibration | None
) -> Iterator[RangeFit]:
    """Yield how well a plan's ranges fit what was counted, for all modules that ran.

    Args:
        inputs: What was counted.
        plan: The plan with its ranges.
        calibration: How they were chosen.
    """
    told = "" if calibration is None else calibration.method
    method: Method = next((known for known in METHODS if known == told), "mse")
    percentile = (calibration and calibration.percentile) or _PERCENTILE

    def chosen(histogram: Histogram) -> Range:
        return _with_zero(histogram.range(method, percentile))

    def times(histogram: Histogram, ends: Range) -> float:
        return expected_error(histogram, ends) / expected_error(histogram, chosen(histogram))

    for name, (whole, *halves) in inputs.counted.items():
        if not whole.total:
            continue
        planned = plan.modules[name].parameters
        ends = _with_zero((planned.get("low") or 0.0, planned.get("high") or 0.0))
        between = 1.0
        if all(half.total for half in halves):
            one, other = halves
            between = max(times(one, chosen(other)), times(other, chosen(one)), 1.0)
        yield RangeFit(
            module=name,
            range=ends,
            seen=chosen(whole),
            method=method,
            times=times(whole, ends),
            chance=between,
        )


def expected_error(histogram: Histogram, ends: Range) -> float:
    """Return the mean square error of values in u8 codes of a range.

    Inside, it is a twelfth of the squared step, as if values lay anywhere between two codes: with
    the true errors, an exact zero or two ranges that differ by a part of a step would count.
    """
    values = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    beyond = values - values.clip(*ends)
    step = (ends[1] - ends[0]) / _LEVELS
    clipped = np.abs(beyond) > step / 2
    errors = np.where(clipped, beyond**2, step**2 / 12)
    return float((histogram.counts * errors).sum() / histogram.total)


def _with_zero(ends: Range) -> Range:
    """Return the range that a scheme makes of these ends: with zero in it, and never empty."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    return (low, high) if high > low else (0.0, 1.0)
