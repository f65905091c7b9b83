"""Ranges of static quantization, held to what the original's modules get from clips."""

import pytest
import torch
from torch import Tensor, nn

from exporter.artifact.manifest import Calibration
from exporter.quantization.calibration.histogram import METHODS, Histogram, Method, Range
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.static_int8 import Scheme
from exporter.validate.evidence.ranges import Inputs, counting, expected_error, fits
from exporter.validate.evidence.results import RangeFit
from exporter.validate.gate.evidence import RANGE_LIMITS, Evidence, checks_of
from tests.validate.evidence.test_findings import findings


def draws(name: str, seed: int) -> Tensor:
    """Inputs of a module, as other recordings give others of them."""
    random = torch.Generator().manual_seed(seed)
    normal = torch.randn(20_000, generator=random)
    return {
        "normal": normal,
        "after GELU": nn.functional.gelu(2 * normal),
        "with outliers": torch.cat([normal, 20 * normal[:20]]),
    }[name]


DRAWS = ["normal", "after GELU", "with outliers"]


def counted(values: Tensor) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


def fit(name: str, ends: Range, method: Method = "mse", seed: int = 2) -> RangeFit:
    """How a range fits, of a plan that has it, ten clips of some inputs."""
    inputs = Inputs(["fc1"])
    for inputs.clip in range(10):
        inputs.add("fc1", draws(name, 10 * seed + inputs.clip))
    plan = QuantizationPlan({"fc1": Scheme(low=ends[0], high=ends[1])})
    told = Calibration(method=method, clips=4, seconds=9.0, sha256="0" * 64)
    (found,) = fits(inputs, plan, told)
    assert (found.module, found.method) == ("fc1", method)
    return found


def times(name: str, ends: Range) -> float:
    """How much a range costs, in multiples of what chance explains."""
    found = fit(name, ends)
    return found.times / found.chance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DRAWS)
def test_other_recordings_cost_little(name: str, method: Method) -> None:
    for seed in range(5):
        calibrated = counted(torch.cat([draws(name, 100 * seed + n) for n in range(16)]))
        found = fit(name, calibrated.range(method, 99.99), method, 3 + seed)
        assert found.times < RANGE_LIMITS[method] / 1.5 * found.chance


@pytest.mark.parametrize("name", DRAWS)
def test_a_range_that_is_too_wide_or_too_narrow_costs_more(name: str) -> None:
    low, high = counted(draws(name, 1)).range("mse", 99.99)
    assert times(name, (3 * low, 3 * high)) > RANGE_LIMITS["mse"]
    assert times(name, (0.3 * low, 0.3 * high)) > RANGE_LIMITS["mse"]
    if name == "normal":  # which has the same range in every draw
        assert times(name, (2 * low, 2 * high)) > RANGE_LIMITS["mse"]


def test_the_range_of_another_module_costs_more() -> None:
    ends = {name: counted(draws(name, 1)).range("mse", 99.99) for name in DRAWS}
    assert times("normal", ends["after GELU"]) > RANGE_LIMITS["mse"]
    assert times("after GELU", ends["with outliers"]) > RANGE_LIMITS["mse"]


def test_the_expected_error_is_near_the_true_one() -> None:
    values = draws("normal", 3)
    for ends in ((-4.0, 4.0), (-2.0, 2.0), (-1.0, 5.0)):
        true = (Scheme(low=ends[0], high=ends[1]).rounded(values) - values).square().mean()
        assert expected_error(counted(values), ends) == pytest.approx(float(true), rel=0.05)


def test_inputs_are_counted_of_modules_that_there_are() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    with counting(model, ["0", "2", "layers.9.fc1"]) as found:
        model(torch.tensor([[1.0, -2.0, 3.0]]))
    assert (found.counted["0"][0].low, found.counted["0"][0].high) == (-2.0, 3.0)
    assert found.counted.keys() == {"0", "2"}
    assert not any(module._forward_pre_hooks for module in model.modules())


def judged(*cost: float) -> tuple[bool | None, str]:
    told = tuple(
        RangeFit(module=f"fc{n}", range=(-2, 6), seen=(-0.17, 3), method="mse", times=each)
        for n, each in enumerate(cost)
    )
    checks = {c.name: c for c in checks_of(Evidence(findings(), (), 10**9, 10**9, told))}
    return checks["ranges"].passed, checks["ranges"].sentence


def test_a_range_that_does_not_fit_fails_and_is_named() -> None:
    assert judged(1.1, 0.9)[0] is True
    passed, sentence = judged(1.1, 16.0, 4.0)
    assert passed is False
    assert "range of fc1 does not fit its inputs: it is -2 to 6, and mse chooses -0.17 to 3" in (
        sentence
    )
    assert "16 times the error" in sentence
    assert "1 more does not fit" in sentence


def test_an_artifact_without_ranges_has_no_such_check() -> None:
    assert "ranges" not in {check.name for check in checks_of(Evidence(findings(), (), 1, 1))}
