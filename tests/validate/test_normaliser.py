"""Normalising texts: spellings, odd texts, and the time they take."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from exporter.errors import DataError, IntegrityError
from exporter.validate.scoring.normaliser import normaliser


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


def test_a_lone_surrogate_can_be_normalised(tmp_path: Path) -> None:
    assert normaliser("en", tmp_path).words("a\ud83d b") is not None
