"""What a bootstrap resamples: told by the data, chosen by one rule, and named in the report."""

import numpy as np
import pytest

from exporter.recipe import Gate
from exporter.validate.gate import judge as gate
from exporter.validate.scoring.statistics import rate_difference
from exporter.validate.scoring.units import units_of
from tests.support.judging import GATE, SENTENCE, case
from tests.support.reports import made

NOBODY = "Clips count as independent: "


@pytest.mark.parametrize(
    ("origins", "name", "count", "sentence"),
    [
        ([(f"s{n % 40}", None) for n in range(400)], "speaker", 40, "40 speakers were resampled."),
        ([(f"s{n}", None) for n in range(15)], "speaker", 15, "15 speakers were resampled."),
        ([(f"s{n % 14}", None) for n in range(99)], "clip", 99, NOBODY + "14 speakers are too few"),
        ([("s", None)] * 20, "clip", 20, NOBODY + "1 speaker is too few to resample (15 are"),
        ([(None, None)] * 20, "clip", 20, NOBODY + "the data name no speakers."),
        (
            [(f"s{n}" if n else None, None) for n in range(20)],
            "clip",
            20,
            NOBODY + "1 of 20 clips name no speaker.",
        ),
        (
            [("s", f"r{n // 2}") for n in range(40)],
            "recording",
            20,
            "20 recordings were resampled: 1 speaker is too few",
        ),
        ([(None, f"r{n // 9}") for n in range(40)], "clip", 40, NOBODY + "the data name no"),
    ],
)
def test_the_unit(
    origins: list[tuple[str | None, str | None]], name: str, count: int, sentence: str
) -> None:
    units = units_of(origins)
    assert (units.stamp.name, units.stamp.count) == (name, count)
    assert units.stamp.sentence.startswith(sentence)
    if units.index is not None:
        kinds = [speaker if name == "speaker" else recording for speaker, recording in origins]
        assert [f"{name[0]}{unit}" for unit in units.index] == kinds


def test_the_report_names_what_was_resampled() -> None:
    one = case(clips=200, speakers=20, hear=lambda index: SENTENCE if index % 20 else "no")
    report = made(one)
    assert report.units is not None
    assert (report.units.name, report.units.count) == ("speaker", 20)
    (wer,) = (check for check in report.checks if check.name == "wer")
    assert wer.sentence.endswith(" 20 speakers were resampled.")
    assert "not enough speakers to tell, about " in wer.sentence
    assert wer.advice in report.sentence
    assert "speaker" not in case().rows[0]
    assert [one.rows[place]["speaker"] for place in (0, 19, 20)] == [0, 19, 0]
    assert "not enough clips" not in wer.sentence


def test_speakers_who_are_unlike_make_the_interval_wide() -> None:
    """A twentieth of the clips is lost: one speaker's, or one of everybody's."""
    ends = []
    for lost in (lambda index: index % 20 == 7, lambda index: index // 20 == 7):
        how = {"hear": lambda index, lost=lost: "no" if lost(index) else SENTENCE}
        whole, clips = (gate.judge(case(clips=400, speakers=n, **how), GATE, 1) for n in (20, 0))
        ends.append(whole.wer_difference.high / clips.wer_difference.high)
        assert whole.wer_difference.value == clips.wer_difference.value
        assert whole.units.name == "speaker"
    assert ends[0] > 1.3
    assert ends[1] < 0.8


def test_units_of_one_clip_are_clips() -> None:
    random = np.random.default_rng(0)
    ours, words = random.integers(0, 9, 300), random.integers(9, 30, 300)
    theirs = ours + (random.random(300) < 0.05)
    each = rate_difference(ours, theirs, words, np.arange(300))
    assert each == rate_difference(ours, theirs, words)


def test_a_gate_that_cannot_pass_is_known_for_speakers_too() -> None:
    """Whoever reads most of the text is drawn twice, or not at all: so more words are needed."""
    words = np.full(400, 10, dtype=np.int64)
    limits = Gate(max_wer_increase=0.0025, min_clips=1)
    each = units_of([(None, None)] * 400)
    unequal = units_of([(f"{0 if n < 300 else n % 20}", None) for n in range(400)])
    assert gate.obstacles(words, limits, each) == []
    (told,) = gate.obstacles(words, limits, unequal)
    assert "with 4,000 words" in told
