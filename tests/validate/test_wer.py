"""Counting words: normalising, corpus rates, alignment columns, loops, and the intervals."""

import json
import time
from pathlib import Path

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from exporter.errors import DataError, IntegrityError
from exporter.validate.scoring.statistics import median_ratio, rate_difference, units_needed
from exporter.validate.scoring.wer import align, loops, normaliser, score, total


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
    words, characters = jiwer.process_words(truth, heard), jiwer.process_characters(truth, heard)
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


def test_english_is_normalised_with_the_checkpoints_spellings(tmp_path: Path) -> None:
    (tmp_path / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    english = normaliser("en", tmp_path)
    assert english.apply("The Colour, it's twenty-one!") == english.apply("the color it is 21")
    assert english.stamp.name == "EnglishTextNormalizer"
    assert english.stamp.spellings == 1
    plain = normaliser("english", tmp_path / "nowhere")
    assert plain.apply("colour") == "colour"
    assert plain.stamp.spellings_sha256 != english.stamp.spellings_sha256


def test_other_languages_get_the_basic_one(tmp_path: Path) -> None:
    for language in ("de", None):
        basic = normaliser(language, tmp_path)
        assert basic.stamp.name == "BasicTextNormalizer"
        assert basic.apply("Das  Tor, bitte!") == "das tor bitte"


def test_damaged_spellings_are_told(tmp_path: Path) -> None:
    for text in ("[1]", "{"):
        (tmp_path / "normalizer.json").write_text(text)
        with pytest.raises(IntegrityError, match=r"normalizer\.json"):
            normaliser("en", tmp_path)


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


LONG = 100_000
ENDLESS = {
    "brackets": "[" * LONG,
    "angles": "<" * LONG,
    "parentheses": "(" * LONG,
    "pairs": "()" * (LONG // 2),
    "spaces and an apostrophe": " " * (LONG - 1) + "'",
    "fillers": "hmm " * (LONG // 4),
    "numbers": "one " * (LONG // 4),
    "symbols": "and" + "|" * (LONG - 9) + "a half",
}


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_no_text_takes_long(tmp_path: Path, language: str, text: str) -> None:
    """A quadratic pattern would take minutes for these; this test has seconds for all of them."""
    started = time.process_time()
    assert normaliser(language, tmp_path).words(text) is not None
    assert time.process_time() - started < 10


BAD = {
    "5,000 digits": "1" * 5000,
    "digits that become too many": "9" * 4300 + " thousand",
    "too long": "x " * (LONG // 2 + 1),
    "a tower of marks": "a" + "\u0301\u0316" * 50_000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_text_that_cannot_be_normalised_is_told(tmp_path: Path, text: str) -> None:
    english = normaliser("en", tmp_path)
    assert english.words(text) is None
    with pytest.raises(DataError):
        english.apply(text)


PIECES = [*"[](<>)| ''.,$%12a\t\n", "hmm", "um ", "'s been", " and a half ", "one", "İ", "é", "   "]


SIDES = [
    (normaliser("en", Path("nowhere")), EnglishTextNormalizer({})),
    (normaliser("de", Path("nowhere")), BasicTextNormalizer()),
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_what_makes_it_fast_changes_no_word(text: str) -> None:
    for ours, plain in SIDES:
        assert ours.words(text) == " ".join(plain(text).split())


def test_a_lone_surrogate_does_not_stop_a_count(tmp_path: Path) -> None:
    assert not loops("a\ud83d")
    assert normaliser("en", tmp_path).words("a\ud83d b") is not None
