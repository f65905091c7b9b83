"""The verdict as a pure function: each gate passes, fails, or says that it cannot tell."""

import re
from typing import NoReturn

import numpy as np
import pytest

from exporter.artifact.report import Check
from exporter.errors import ResourceError
from exporter.recipe import Gate
from exporter.validate.evidence.results import Findings, Steps
from exporter.validate.gate import judge as gate
from exporter.validate.gate.corpus import readable
from exporter.validate.gate.latency import TIMED_CLIPS, Times, too_slow
from exporter.validate.measure.latency import Measurement, remeasure_if_slow
from exporter.validate.measure.shapes import ShapeCheck
from exporter.validate.scoring.units import units_of
from tests.support.judging import (
    GATE,
    SENTENCE,
    SHAPES,
    case,
    comparison,
    listed,
    measurement,
    output,
)


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


@pytest.mark.parametrize(
    ("clips", "words", "changes", "told"),
    [
        (100, 20, {}, []),
        (49, 40, {}, ["49 clips are fewer than gate.min_clips, 50"]),
        (
            100,
            1,
            {},
            ["with 100 words, .* ends at .8.8. points, beyond .*0.50 points: about 1,7.."],
        ),
        (100, 20, {"max_wer_increase": 0}, ["max_wer_increase 0 has no room"]),
        (3, 1, {"min_clips": 5, "max_wer_increase": 0.9}, ["3 clips are fewer", "with 3 words"]),
    ],
)
def test_gates_that_cannot_pass_are_known_before(
    clips: int, words: int, changes: dict[str, float], told: list[str]
) -> None:
    limits = Gate.model_validate(changes)
    units = units_of([(None, None)] * clips)
    found = gate.obstacles(np.full(clips, words, dtype=np.int64), limits, units)
    assert len(found) == len(told)
    for sentence, expected in zip(found, told, strict=True):
        assert re.search(expected, sentence)


def test_what_is_told_before_is_what_the_gate_decides() -> None:
    """With unchanged texts the verdict is passed where nothing was told, and never else."""
    for clips in (60, 140, 170, 180, 200):
        one = case(clips=clips)
        limits = Gate(max_wer_increase=0.005)
        told = gate.obstacles(one.reference.scores.words, limits, one.units)
        assert (gate.judge(one, limits, files=9).verdict == "passed") == (not told), clips


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
    bad, right = [SENTENCE.replace("light", "lamp")] * 60, [SENTENCE] * 60
    sides = [output(texts, measurement(60)) for texts in (bad, right)]
    judged = gate.judge(comparison(listed(60), *sides), GATE, files=1)
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
    judged = gate.judge(case(load_average=7.0), GATE, files=9)
    assert "The machine was busy (load average 7.0)" in check(judged, "latency").sentence


def close(clips: int) -> Check:
    """The check of an artifact that is slower in half of the clips, faster in the others."""
    ours = measurement(clips)
    ratios = np.where(np.arange(clips) % 2, 0.9, 1.12)
    theirs = measurement(clips, seconds=tuple(ours.seconds * ratios))
    sides = (output([SENTENCE] * clips, each) for each in (ours, theirs))
    judged = gate.judge(comparison(listed(clips), *sides), GATE, files=9)
    assert judged.verdict == "undecided"
    return check(judged, "latency")


def test_latency_too_close_to_tell() -> None:
    """More clips are of help only where not so many are timed as would be."""
    for clips, words in ((60, " More clips help too."), (TIMED_CLIPS, " threads of production.")):
        told = close(clips)
        assert told.passed is None
        assert told.sentence.endswith(": too close to tell.")
        assert told.advice.endswith(words)


def test_what_two_runs_of_one_model_may_differ_by_does_not_fail() -> None:
    judged = gate.judge(case(seconds=0.104), GATE, files=9)
    assert check(judged, "latency").passed is None


def test_slowness_counts_only_if_it_stays() -> None:
    """Another program may have run beside the candidate; then what both take in turns counts."""
    fast, slow = measurement(60, 0.1), measurement(60, 0.2)

    def slower(*sides: Measurement) -> bool:
        return too_slow(Times(np.ones(60), *(np.array(side.seconds) for side in sides)), 1.0)

    def settled(*seconds: float) -> list[float]:
        both = remeasure_if_slow(fast, slow, slower, lambda: [[each] * 60 for each in seconds])
        assert [len(side.seconds) for side in both] == [60, 60]
        return [side.seconds[59] for side in both]

    assert settled(0.2, 0.1) == [0.2, 0.1]
    assert settled(0.1, 0.3) == [0.1, 0.3]
    assert remeasure_if_slow(slow, fast, slower, list) == (slow, fast)


def test_without_memory_for_both_each_ones_own_times_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fast, slow = measurement(60, 0.1), measurement(60, 0.2)

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
    judged = gate.judge(case(right="no " * 20, hear=lambda _: "no " * 20), GATE, files=9)
    assert check(judged, "texts").passed is True


@pytest.mark.parametrize(
    ("shape", "name", "passed"),
    [
        (ShapeCheck(lengths_s=(1.0,), error="RuntimeError: shapes"), "shapes", False),
        (ShapeCheck(lengths_s=(1.0,), finite=True, likeness=0.1), "shapes", False),
        (ShapeCheck(lengths_s=(1.0,), finite=False, likeness=1.0), "finite", False),
    ],
)
def test_shapes(shape: ShapeCheck, name: str, passed: bool) -> None:
    judged = gate.judge(case(shapes=(shape, *SHAPES[1:])), GATE, files=9)
    assert check(judged, name).passed is passed
    assert judged.verdict == "failed"


def test_unseen_outputs_cannot_be_called_finite() -> None:
    unseen = tuple(shape.model_copy(update={"finite": None}) for shape in SHAPES)
    assert gate.judge(case(shapes=unseen), GATE, files=9).verdict == "undecided"


GOOD = Steps(name="silence", clip=False, distance=(0.0,))


@pytest.mark.parametrize(
    ("steps", "passed"),
    [
        ([GOOD], True),
        ([GOOD, GOOD.model_copy(update={"finite": False})], False),
        ([GOOD.model_copy(update={"error": "RuntimeError: no"})], None),
    ],
)
def test_logits_that_stay_on_a_card_are_seen_where_texts_are_given(
    steps: list[Steps], passed: bool | None
) -> None:
    unseen = tuple(shape.model_copy(update={"finite": None}) for shape in SHAPES)
    found = Findings(
        steps=tuple(steps),
        noise=1.0,
        exact_noise=None,
        modules=(),
        exact_modules=(),
        features={},
        consistency=(),
        resources=None,
        seconds=1.0,
    )
    judged = gate.judge(case(shapes=unseen, findings=found), GATE, files=9)
    assert check(judged, "finite").passed is passed


def test_figures_and_slices() -> None:
    one = case(hear=lambda index: SENTENCE if index % 2 else SENTENCE.replace(" now", ""))
    figures = gate.figures(one.candidate, one.timed_audio_s)
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


def test_times_are_those_of_the_timed_clips() -> None:
    """Errors are counted in all; a range of durations without a timed clip has no ratio."""
    one = case(hear=lambda index: SENTENCE if index % 2 else "", timed=range(30, 100, 10))
    judged = gate.judge(one, GATE, files=9)
    assert "over 7 clips, " in check(judged, "latency").sentence
    assert check(judged, "clips").value == 100
    figures = gate.figures(one.candidate, one.timed_audio_s)
    assert figures.empty_texts == 50
    assert figures.rtf == pytest.approx(one.candidate.seconds.sum() / sum(range(33, 103, 10)))
    ratios = [found.latency_ratio for found in gate.slices(one)]
    assert ratios[:3] == [None] * 3
    assert ratios[3] == pytest.approx(0.5)
    times = [one.rows[index]["time"] for index in (29, 30, 31)]
    assert times == [None, one.candidate.seconds[0], None]


@pytest.mark.parametrize(("left_out", "passed"), [(1, True), (4, True), (5, None), (400, None)])
def test_more_than_one_in_a_hundred_clips_that_cannot_be_read_do_not_pass(
    left_out: int, passed: bool | None
) -> None:
    (check,) = readable(left_out, 400)
    assert (check.name, check.passed, check.limit) == ("readable", passed, 0.01)
    assert f"{left_out} of {400 + left_out} clips could not be read" in check.sentence
    assert bool(check.advice) == (passed is None)
    assert readable(0, 400) == ()
