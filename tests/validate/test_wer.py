"""Counting words: corpus rates, alignment columns, loops, and the intervals."""

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import DataError
from exporter.validate.scoring.normaliser import joined
from exporter.validate.scoring.statistics import median_ratio, rate_difference, units_needed
from exporter.validate.scoring.wer import align, loops, score, total


def test_rates_are_sums_over_the_corpus() -> None:
    truth = ["one two three four", "five", ""]
    scores = score(truth, ["one too three", "five six", "seven"])
    assert scores.words.tolist() == [4, 1, 0]
    assert scores.substitutions.tolist() == [1, 0, 0]
    assert scores.deletions.tolist() == [1, 0, 0]
    assert scores.insertions.tolist() == [0, 1, 1]
    assert scores.errors.sum() / scores.words.sum() == pytest.approx(4 / 5)
    assert scores.character_errors.tolist() == [6, 4, 5]


letters = st.text(st.sampled_from("abé\u0301ß中न\u093eไ\u0e49\U0001f600"), max_size=4)
phrases = st.lists(st.one_of(letters, st.text(max_size=3)), max_size=9)
texts = phrases.map(lambda words: " ".join(" ".join(words).split()))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_errors_are_counted_as_jiwer_does(pairs: list[tuple[str, str]]) -> None:
    truth, heard = [one for one, _ in pairs], [other for _, other in pairs]
    found = score(truth, heard)
    words = jiwer.process_words(truth, heard)
    characters = jiwer.process_characters(
        *([joined(text) for text in side] for side in (truth, heard))
    )
    kinds = words.substitutions, words.deletions, words.insertions
    assert (found.substitutions.sum(), found.deletions.sum(), found.insertions.sum()) == kinds
    assert found.words.tolist() == [len(side) for side in words.references]
    assert found.characters.tolist() == [len(side) for side in characters.references]
    wrong = characters.substitutions + characters.deletions + characters.insertions
    assert found.character_errors.sum() == wrong


def test_a_rate_needs_words() -> None:
    with pytest.raises(DataError, match="no clip has a word"):
        total([score(["", ""], ["a", ""]), score([""], [""])])


def test_parts_make_a_whole() -> None:
    truth, heard = ["one two", "", "three"], ["one", "a", "tree"]
    whole = total([score(truth[:2], heard[:2]), score(truth[2:], heard[2:])])
    assert whole.errors.tolist() == score(truth, heard).errors.tolist()
    assert whole.character_errors.tolist() == score(truth, heard).character_errors.tolist()


def test_columns_line_both_sides_up() -> None:
    columns = align("open the door", "open a the door", "open door")
    table = [(column.truth, column.reference, column.candidate) for column in columns]
    assert table == [
        ("open", "open", "open"),
        (None, "a", None),
        ("the", "the", None),
        ("door", "door", "door"),
    ]


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(" ".join)


@settings(deadline=None)
@given(words, words, words)
def test_columns_lose_nothing(truth: str, reference: str, candidate: str) -> None:
    columns = align(truth, reference, candidate)
    for side, text in (("truth", truth), ("reference", reference), ("candidate", candidate)):
        assert " ".join(filter(None, (getattr(column, side) for column in columns))) == text
    if truth:
        wrong = sum(column.truth != column.candidate for column in columns)
        assert wrong == score([truth], [candidate]).errors[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("turn the light on and then turn it off again", False),
        ("very very very good", False),
        ("one one two two three three", False),
        ("so thank you thank you thank you thank you thank you", True),
        ("no " * 9, True),
        ("the cat sat on the mat " * 4, True),
        ("ah" * 60, True),
        ("我们走吧" * 20, True),
    ],
)
def test_loops(text: str, expected: bool) -> None:
    assert loops(text) is expected


def test_pairing_makes_the_interval_sharp() -> None:
    random = np.random.default_rng(0)
    length = np.full(300, 10)
    ours = random.binomial(10, 0.1, 300)
    theirs = ours + (random.random(300) < 0.02)
    interval = rate_difference(ours, theirs, length)
    assert interval.value == pytest.approx((theirs - ours).sum() / 3000)
    assert interval.low <= interval.value <= interval.high
    assert interval.high - interval.low < 0.0065
    assert interval == rate_difference(ours, theirs, length)
    unpaired = rate_difference(ours, random.permutation(theirs), length)
    assert unpaired.high - unpaired.low > 3 * (interval.high - interval.low)
    assert 0 < interval.detectable < 0.005


def test_the_interval_agrees_with_the_normal_approximation() -> None:
    random = np.random.default_rng(1)
    change = random.integers(-1, 2, 1000)
    ones = np.ones(1000, dtype=np.int64)
    interval = rate_difference(np.ones_like(change), change + 1, ones)
    reach = 1.96 * change.std() / np.sqrt(1000)
    assert interval.high - interval.value == pytest.approx(reach, rel=0.08)
    assert interval.value - interval.low == pytest.approx(reach, rel=0.08)


@pytest.mark.parametrize(("new_errors", "exact"), [(0, 3.69), (1, 5.57), (2, 7.22), (3, 8.77)])
def test_few_changes_are_not_taken_for_certainty(new_errors: int, exact: float) -> None:
    """The upper end covers the exact Poisson bound for so few new errors, whatever the clips.

    That bound holds for errors that come one by one; they do not.
    """
    ours = np.zeros(200, dtype=np.int64)
    theirs = ours.copy()
    theirs[:new_errors] = 1
    interval = rate_difference(ours, theirs, np.full(200, 10))
    assert interval.value == new_errors / 2000
    assert exact <= interval.high * 2000 <= 2.5 * exact
    assert interval.low < 0


def test_clips_without_words_do_not_break_the_bootstrap() -> None:
    interval = rate_difference(np.array([0, 0]), np.array([1, 0]), np.array([0, 4]))
    assert np.isfinite([interval.low, interval.high]).all()


def test_units_needed_grows_as_the_gap_shrinks() -> None:
    random = np.random.default_rng(2)
    ours = random.binomial(10, 0.1, 60)
    interval = rate_difference(ours, random.binomial(10, 0.1, 60), np.full(60, 10))
    far = units_needed(interval, interval.value + 0.02, 60)
    near = units_needed(interval, interval.value + 0.01, 60)
    assert far is not None
    assert near is not None
    assert 60 <= far < near
    assert units_needed(interval, interval.value, 60) is None


@pytest.mark.parametrize("count", [1, 2, 51, 100])
def test_median_ratio(count: int) -> None:
    reference = np.linspace(0.1, 2.0, count)
    ratio = median_ratio(reference, 0.5 * reference)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    spread = median_ratio(reference, reference * np.linspace(0.5, 1.5, count))
    assert spread.low <= spread.value <= spread.high


def test_a_lone_surrogate_does_not_stop_a_count() -> None:
    assert not loops("a\ud83d")
