"""Latency by the clips' lengths: a length that is too slow fails and names itself."""

from pathlib import Path

import numpy as np
import pytest

from exporter.artifact.report import Check
from exporter.cli.validate import markdown
from exporter.validate.gate.latency import Times, check_latency, check_lengths, too_slow
from tests.support.judging import GATE, case
from tests.support.reports import made

# The clips of each length, and a tenth of a second for a window and a hundredth for each second.
DURATIONS_S = np.concatenate([np.linspace(1, 4, 40), np.linspace(6, 14, 40), np.full(20, 20.0)])
REFERENCE_S = 0.1 + 0.01 * DURATIONS_S


def checked(candidate_s: np.ndarray, most: float = 1.0) -> tuple[Check, Check]:
    times = Times(DURATIONS_S, REFERENCE_S, candidate_s)
    overall = check_latency(times, most)
    lengths = check_lengths(times, most, overall.passed)
    slow = overall.passed is False or lengths.passed is False
    assert too_slow(times, most) is slow
    for check in (overall, lengths):
        assert bool(check.advice) is (check.passed is not True)
    return overall, lengths


def test_slow_on_long_clips_only() -> None:
    overall, lengths = checked(REFERENCE_S * np.where(DURATIONS_S < 15, 0.6, 1.9))
    assert (overall.passed, lengths.passed) == (True, False)
    assert lengths.sentence.startswith(
        "Clips of 15 to 30 s: 1.90 times SLOWER than the original (over 20 clips, "
    )
    assert "cache of the decoder" in lengths.advice
    assert lengths.value == pytest.approx(1.9)
    assert lengths.limit == 1


def test_slow_on_short_clips_only() -> None:
    overall, lengths = checked(REFERENCE_S * np.where(DURATIONS_S < 5, 1.4, 0.6))
    assert (overall.passed, lengths.passed) == (True, False)
    assert lengths.sentence.startswith("Clips under 5 s: 1.40 times SLOWER")


@pytest.mark.parametrize(
    ("factor", "extra_s"),
    [(0.6, 0.0), (1.0, 0.0), (1.04, 0.0), (0.9, 0.02), (0.95, 0.015)],
    ids=["fast", "as fast", "drift of two runs", "a cost of each call", "the same"],
)
def test_honest_artifacts_do_not_fail(factor: float, extra_s: float) -> None:
    random = np.random.default_rng(0)
    noise = random.lognormal(0, 0.1, len(REFERENCE_S))
    overall, lengths = checked((factor * REFERENCE_S + extra_s) * noise)
    assert overall.passed is not False
    assert lengths.passed is not False


def test_a_few_slow_clips_are_told() -> None:
    """They leave the verdict open only where all clips together do."""
    slow = np.where(np.arange(100) >= 96, 1.9, 0.6)
    few = Times(np.where(slow > 1, 40.0, 3.0), REFERENCE_S, REFERENCE_S * slow)
    told = check_lengths(few, 1.0, overall=True)
    assert told.passed is True
    assert told.sentence.startswith("Clips over 30 s: 1.90 times SLOWER than the original (over 4 ")
    assert "too few clips" in told.sentence
    undecided = check_lengths(few, 1.0, overall=None)
    assert undecided.passed is None
    assert "does nothing else" in undecided.advice


def test_a_slow_artifact_is_told_once() -> None:
    report = made(case(seconds=0.2))
    assert [check.name for check in report.checks if check.passed is False] == [
        "latency",
        "lengths",
    ]
    assert report.sentence.count("SLOWER") == 1


def test_the_report_has_the_95th_percentile() -> None:
    one = case()
    ratios = one.candidate.seconds / one.reference.seconds
    report = made(one)
    assert report.latency_ratio_p95 == pytest.approx(np.quantile(ratios, 0.95))
    assert GATE.max_latency_ratio >= report.latency_ratio_p95
    assert "| x 0.50 (p95 0.50) |" in markdown([Path("artifact")], [report])
    older = report.model_copy(update={"latency_ratio_p95": None})
    assert "| x 0.50 |" in markdown([Path("artifact")], [older])
