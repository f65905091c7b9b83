"""Histograms of inputs, the ranges that each method chooses of them, and how they are collected."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporter.errors import BuildError
from exporter.quantization.calibration.histogram import BINS, Histogram, Method, Range
from exporter.quantization.calibration.observe import observe


def values(name: str) -> Tensor:
    random = torch.Generator().manual_seed(3)
    normal = torch.randn(40_000, generator=random)
    return {
        "normal": normal,
        "after GELU": nn.functional.gelu(2 * normal),
        "with outliers": torch.cat([normal, 30 * normal[:5]]),
        "all positive": normal.abs() + 5,
        "sparse": normal.relu() * (normal > 1),
    }[name]


CASES = ["normal", "after GELU", "with outliers", "all positive", "sparse"]


def counted(numbers: Tensor, pieces: int = 7) -> Histogram:
    histogram = Histogram()
    for piece in numbers.chunk(pieces):
        assert histogram.add(piece.reshape(1, -1))
    return histogram


def error(numbers: Tensor, ends: Range) -> float:
    """The mean square error of u8 codes of a range."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    codes = (numbers.double() / step).round().add(zero).clamp(0, 255) - zero
    return float((numbers.double() - codes * step).square().mean())


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost_while_bins_grow(case: str) -> None:
    """From small to large: the reach doubles many times, and counts and extremes stay right."""
    numbers = values(case)
    order = numbers.abs().argsort()
    histogram = counted(numbers[order], 50)
    assert histogram.total == len(numbers)
    assert (histogram.low, histogram.high) == (float(numbers.min()), float(numbers.max()))
    whole, _ = np.histogram(numbers.double(), BINS, (-histogram.reach, histogram.reach))
    # A number may fall on an edge, and so into either of two neighbours.
    assert np.abs(whole.cumsum() - histogram.counts.cumsum()).max() <= 1e-3 * len(numbers)


def test_memory_does_not_follow_the_values() -> None:
    one, many = counted(values("normal")), Histogram()
    for _ in range(50):
        many.add(values("normal"))
    assert many.counts.nbytes == one.counts.nbytes
    assert vars(many).keys() == vars(one).keys()
    assert many.total == 50 * one.total


@pytest.mark.parametrize("case", CASES)
def test_the_extremes_and_a_share_of_all_values(case: str) -> None:
    numbers, histogram = values(case), counted(values(case))
    assert histogram.range("minmax", 99) == (min(float(numbers.min()), 0), float(numbers.max()))
    for percentile in (90.0, 99.0):
        cut = (100 - percentile) / 200
        expected = np.quantile(numbers.double(), [cut, 1 - cut]).clip([-np.inf, 0], [0, np.inf])
        found = histogram.range("percentile", percentile)
        width = 2 * histogram.reach / BINS
        near = max(2 * width, 5e-3 * float(numbers.max() - numbers.min()))
        if case != "sparse":  # half of it is one number
            assert np.abs(np.array(found) - expected).max() <= near
    assert histogram.range("percentile", 100.0) == pytest.approx(
        histogram.range("minmax", 0), abs=4 * histogram.reach / BINS
    )


@pytest.mark.parametrize("case", CASES)
def test_mse_is_the_least_error_of_all_clippings(case: str) -> None:
    numbers, histogram = values(case), counted(values(case))
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    shares = np.linspace(0.02, 1, 40)
    tried = [error(numbers, (low * a, high * b)) for a in shares for b in shares if a and b]
    found = error(numbers, histogram.range("mse", 0))
    assert found <= 1.05 * min(tried)
    methods: tuple[Method, ...] = ("minmax", "percentile")
    assert found <= 1.01 * min(error(numbers, histogram.range(m, 99.99)) for m in methods)


def test_entropy_cuts_outliers_and_keeps_what_has_none() -> None:
    whole = counted(torch.rand(40_000, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    low, high = whole.range("entropy", 0)
    assert low < -0.95
    assert high > 0.95
    low, high = counted(values("with outliers")).range("entropy", 0)
    assert -10 < low < -2
    assert 2 < high < 10


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_a_range_is_finite_and_in_order(method: Method) -> None:
    cases = [
        *map(values, CASES),
        torch.zeros(5),
        torch.full((3,), -2.0),
        torch.tensor([1e-30, 1e30]),
    ]
    for numbers in cases:
        low, high = counted(numbers, 1).range(method, 99.99)
        assert math.isfinite(low)
        assert math.isfinite(high)
        assert low <= high


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, states: Tensor) -> Tensor:
        second: Tensor = self.second(self.first(states).relu())
        return second


def test_inputs_are_counted_in_one_pass_and_hooks_are_removed() -> None:
    model, clips = Model(), [torch.randn(2, 4, 3) for _ in range(3)]
    runs = [(f"{n}.wav", lambda clip=clip: model(clip)) for n, clip in enumerate(clips)]
    found = observe(model, ["first", "second"], runs)
    assert found["first"].total == 3 * 24
    assert found["first"].high == float(torch.stack(clips).max())
    assert found["second"].low == 0.0
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_not_finite_names_module_and_recording() -> None:
    model, bad = Model(), torch.full((1, 3), math.nan)
    runs = [("good.wav", lambda: model(torch.ones(1, 3))), ("bad.wav", lambda: model(bad))]
    with pytest.raises(BuildError, match=r"first gets NaN or infinity .* at bad\.wav"):
        observe(model, ["second", "first"], runs)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_module_that_never_ran_has_no_range() -> None:
    model = Model()
    with pytest.raises(BuildError, match="idle never ran"):
        observe(model, ["first", "idle"], [("a.wav", lambda: model(torch.ones(1, 3)))])
