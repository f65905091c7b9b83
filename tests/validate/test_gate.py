"""The verdict as a pure function: each gate passes, fails, or says that it cannot tell."""

from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from exporter.artifact.report import Check
from exporter.errors import ResourceError
from exporter.formats.clips import Clip
from tests.support.judging import GATE, PROBES, SENTENCE, case, measurement
from validate import gate
from validate.measure import ClipResult, ShapeCheck, remeasure_if_slow


def check(judged: gate.Judgement, name: str) -> Check:
    return next(check for check in judged.checks if check.name == name)


def test_the_same_text_faster_passes() -> None:
    judged = gate.judge(case(), GATE, files=9)
    assert judged.verdict == "passed"
    assert all(check.passed for check in judged.checks)
    assert (
        judged.sentence
        == "WER +0.00 points, at most +0.88 points; 2.00 times as fast as the original."
    )


def test_clearly_more_errors_fail() -> None:
    judged = gate.judge(case(hear=lambda _: SENTENCE.replace("light", "lamp")), GATE, files=9)
    assert judged.verdict == "failed"
    assert check(judged, "wer").passed is False
    assert "WER +10.00 points" in judged.sentence


def test_too_few_clips_to_tell_is_neither() -> None:
    judged = gate.judge(
        case(hear=lambda index: SENTENCE if index % 10 else "turn off" + SENTENCE[7:]),
        GATE,
        files=9,
    )
    assert judged.verdict == "undecided"
    wer = check(judged, "wer")
    assert wer.passed is None
    assert "not enough clips to tell" in wer.sentence


def test_a_better_artifact_passes() -> None:
    truth = [SENTENCE] * 60
    listed = [Clip(str(index), Path(), SENTENCE, None, 2.0) for index in range(60)]
    bad = [SENTENCE.replace("light", "lamp")] * 60
    sides = [gate.side(measurement(texts), truth, str, 1) for texts in (bad, truth)]
    judged = gate.judge(gate.Comparison(listed, truth, *sides), GATE, files=1)
    assert check(judged, "wer").passed is True
    assert judged.wer_difference.value == pytest.approx(-0.1)


def test_fewer_clips_than_the_gate_asks_for() -> None:
    judged = gate.judge(case(clips=20), GATE, files=9)
    assert judged.verdict == "undecided"
    assert judged.sentence.startswith("20 clips; the gate asks for at least 50.")


@pytest.mark.parametrize(("seconds", "passed"), [(0.05, True), (0.1, True), (0.2, False)])
def test_latency(seconds: float, passed: bool) -> None:
    judged = gate.judge(case(seconds=seconds), GATE, files=9)
    assert check(judged, "latency").passed is passed
    if not passed:
        assert "2.00 times SLOWER than the original" in judged.sentence


def test_a_busy_machine_is_told() -> None:
    one = case()
    busy = one.candidate.measurement.model_copy(update={"load_average": 7.0})
    side = gate.side(busy, one.truth, str, 1)
    judged = gate.judge(gate.Comparison(one.clips, one.truth, one.reference, side), GATE, files=9)
    assert "The machine was busy (load average 7.0)" in check(judged, "latency").sentence


def test_latency_too_close_to_tell() -> None:
    one = case()
    ratios = np.where(np.arange(100) % 2, 0.9, 1.12)
    heard = tuple(
        ClipResult(text=SENTENCE, tokens=1, seconds=seconds)
        for seconds in one.reference.seconds * ratios
    )
    theirs = measurement([SENTENCE] * 100).model_copy(update={"heard": heard})
    side = gate.side(theirs, one.truth, str, 1)
    judged = gate.judge(gate.Comparison(one.clips, one.truth, one.reference, side), GATE, files=9)
    assert check(judged, "latency").passed is None
    assert judged.verdict == "undecided"


def test_what_two_runs_of_one_model_may_differ_by_does_not_fail() -> None:
    judged = gate.judge(case(seconds=0.104), GATE, files=9)
    assert check(judged, "latency").passed is None


def test_slowness_counts_only_if_it_stays() -> None:
    """Another program may have run beside the candidate; then what both take in turns counts."""
    fast, slow = measurement([SENTENCE] * 60, 0.1), measurement([SENTENCE] * 60, 0.2)
    too_slow = partial(gate.too_slow, most=1.0)

    def settled(*seconds: float) -> list[float]:
        both = remeasure_if_slow(fast, slow, too_slow, lambda: [[each] * 60 for each in seconds])
        assert [clip.text for side in both for clip in side.heard] == [SENTENCE] * 120
        return [side.heard[59].seconds for side in both]

    assert settled(0.2, 0.1) == [0.2, 0.1]
    assert settled(0.1, 0.3) == [0.1, 0.3]
    assert remeasure_if_slow(slow, fast, too_slow, list) == (slow, fast)


def test_without_memory_for_both_each_ones_own_times_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fast, slow = measurement([SENTENCE] * 60, 0.1), measurement([SENTENCE] * 60, 0.2)

    def in_turns() -> NoReturn:
        msg = "ended for want of memory"
        raise ResourceError(msg)

    assert remeasure_if_slow(fast, slow, lambda *_: True, in_turns) == (fast, slow)
    assert "not by turns: ended for want of memory" in caplog.text


@pytest.mark.parametrize("damage", ["", "on the light " * 9])
def test_empty_and_looping_texts_fail(damage: str) -> None:
    judged = gate.judge(case(hear=lambda index: SENTENCE if index else damage), GATE, files=9)
    assert check(judged, "texts").passed is False


def test_what_the_original_does_too_is_no_fault() -> None:
    one = case()
    loop = gate.side(measurement(["no " * 20] * 100), one.truth, str.strip, 1)
    judged = gate.judge(gate.Comparison(one.clips, one.truth, loop, loop), GATE, files=9)
    assert check(judged, "texts").passed is True


@pytest.mark.parametrize(
    ("probe", "name", "passed"),
    [
        (ShapeCheck(lengths_s=(1.0,), error="RuntimeError: shapes"), "shapes", False),
        (ShapeCheck(lengths_s=(1.0,), finite=True, likeness=0.1), "shapes", False),
        (ShapeCheck(lengths_s=(1.0,), finite=False, likeness=1.0), "finite", False),
    ],
)
def test_probes(probe: ShapeCheck, name: str, passed: bool) -> None:
    judged = gate.judge(case(probes=(probe, *PROBES[1:])), GATE, files=9)
    assert check(judged, name).passed is passed
    assert judged.verdict == "failed"


def test_unseen_outputs_cannot_be_called_finite() -> None:
    unseen = tuple(probe.model_copy(update={"finite": None}) for probe in PROBES)
    assert gate.judge(case(probes=unseen), GATE, files=9).verdict == "undecided"


def test_figures_and_slices() -> None:
    one = case(hear=lambda index: SENTENCE if index % 2 else SENTENCE.replace(" now", ""))
    figures = gate.figures(one.candidate, one.clips)
    assert figures.wer == pytest.approx(0.05)
    assert (figures.substitutions, figures.deletions, figures.insertions) == (0, 50, 0)
    assert figures.rtf * figures.rtfx == pytest.approx(1)
    assert figures.latency_median_s <= figures.latency_p95_s
    slices = gate.slices(one)
    assert [found.name for found in slices] == ["under 5 s", "5 to 15 s", "15 to 30 s", "over 30 s"]
    assert sum(found.clips for found in slices) == 100
    assert len(one.changed) == 50
    worst = gate.worst(one)
    assert len(worst) == gate.WORST
    assert all(clip.errors == 1 and clip.errors_reference == 0 for clip in worst)
