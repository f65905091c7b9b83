"""Normalising texts: spellings, odd texts, and the time they take."""

# ruff: noqa: RUF001 (letters of other scripts are what is tested)

import json
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from exporter.errors import DataError, IntegrityError
from exporter.validate.scoring.normaliser import joined, normaliser, same_letters


def test_english_is_normalised_with_the_checkpoints_spellings(tmp_path: Path) -> None:
    (tmp_path / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    english = normaliser("en", tmp_path)
    assert english.apply("The Colour, it's twenty-one!") == english.apply("the color it is 21")
    assert english.stamp.name == "EnglishTextNormalizer"
    assert english.stamp.spellings == 1
    plain = normaliser("english", tmp_path / "nowhere")
    assert plain.apply("colour") == "colour"
    assert plain.stamp.spellings_sha256 != english.stamp.spellings_sha256


GOLDEN_ENGLISH = {
    "Mr. Smith's colour-blind, isn't he?": "mister smith is colour blind is not he",
    "Um, twenty-one dollars ($21.50) hmm": "$21",
    "I won't pay $1,000 or 15% on the 21st!": "i will not pay $1000 or 15% on the 21st",
    "[noise] Café naïve, œuvre Straße": "cafe naive oeuvre strasse",
}


@pytest.mark.parametrize(("text", "expected"), GOLDEN_ENGLISH.items())
def test_english_stays_as_it_was(text: str, expected: str) -> None:
    """The values of the release before there were other normalisers."""
    english = normaliser("en", Path("nowhere"))
    assert english.apply(text) == expected == " ".join(EnglishTextNormalizer({})(text).split())
    assert (english.stamp.name, english.stamp.unit) == ("EnglishTextNormalizer", "word")
    assert not english.stamp.version


@pytest.mark.parametrize(
    ("language", "unit"),
    [
        ("de", "word"),
        ("hi-IN", "word"),
        ("Korean", "word"),
        (None, "by script"),
        ("zh", "character"),
        ("zh-CN", "character"),
        ("Chinese", "character"),
        ("<|ja|>", "character"),
        ("th_th", "character"),
        ("mandarin", "character"),
    ],
)
def test_other_languages_get_ours_with_its_version_and_unit(
    language: str | None, unit: str
) -> None:
    stamp = normaliser(language, Path("nowhere")).stamp
    assert (stamp.name, stamp.version, stamp.unit) == ("UnicodeTextNormalizer", 1, unit)
    assert stamp.unicode == unicodedata.unidata_version


TEXTS = {
    "German": ("de", "Das  Tor, bitte! Straße", "das tor bitte straße"),
    "French": ("fr", "L'été [musique] (rires)", "l été"),
    "Hindi keeps vowel signs and virama": ("hi", "प्राचीन संस्कृतियों।", "प्राचीन संस्कृतियों"),
    "Malayalam": ("ml", "എന്റെ ഭാഷ", "എന്റെ ഭാഷ"),
    "Thai is characters": ("th", "สวัสดี ครับ ABC", "ส วั ส ดี ค รั บ abc"),
    "Chinese is characters": ("zh", "我们走吧，Hello world!", "我 们 走 吧 hello world"),
    "Japanese": ("ja", "ハンバーガーを", "ハ ン バ ー ガ ー を"),
    "Khmer": ("km", "ភាសា", "ភា សា"),
    "Burmese": ("my", "မြန်မာ", "မြ န် မာ"),
    "Tibetan": ("bo", "བོད་སྐད", "བོ ད སྐ ད"),
    "Korean has spaces": ("ko", "안녕하세요 여러분", "안녕하세요 여러분"),
    "pointed Arabic": ("ar", "مُحَمَّدٌ، رَسُول", "مُحَمَّدٌ رَسُول"),
    "stretched Arabic": ("ar", "محـــمد", "محمد"),
    "pointed Hebrew": ("he", "בְּרֵאשִׁית בָּרָא.", "בְּרֵאשִׁית בָּרָא"),
    "Persian's joiner is not seen": ("fa", "می\u200cخواهم", "میخواهم"),
    "Turkish": ("tr", "İstanbul ISI ılık", "istanbul ısı ılık"),
    "a dotted capital elsewhere": (None, "İstanbul", "istanbul"),
    "a stress mark": ("ru", "за\u0301мок", "за\u0301мок"),
    "emoji are no words": ("de", "gut 👍🏽 ❤\ufe0f!", "gut"),
    "full-width digits": (None, "１２３ ｋｍ", "123 km"),
    "a soft hyphen": ("de", "Auf\u00adgabe", "aufgabe"),
    "no mark without a letter": ("hi", "\u093f \u0301 क", "क"),
}


@pytest.mark.parametrize(("language", "text", "expected"), TEXTS.values(), ids=TEXTS)
def test_words_of_other_languages(language: str | None, text: str, expected: str) -> None:
    ours = normaliser(language, Path("nowhere"))
    normal = unicodedata.normalize("NFKC", expected)
    assert ours.apply(text) == normal
    assert ours.apply(normal) == normal


def test_characters_are_joined_again_to_look_for_loops() -> None:
    spaced = normaliser("zh", Path("nowhere")).apply("我们走吧 hello 世界")
    assert joined(spaced) == "我们走吧 hello 世界"
    assert joined("one two") == "one two"
    assert joined("एक दो") == "एक दो"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The door!", "the door", True),
        ("well-known", "well known", True),
        ("１２", "12", True),
        ("é", "e\u0301", True),
        ("twenty one", "21", False),
        ("cafe", "café", False),
        ("Straße", "Strasse", False),
        ("ısı", "isi", False),
        ("gut 👍", "gut 👎", False),
        ("प्राचीन", "परचन", False),
        ("بَ", "بِ", False),
        ("um yes", "yes", False),
    ],
)
def test_other_letters_are_another_text(one: str, other: str, same: bool) -> None:
    assert same_letters(one, other) is same


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


PIECES = [*"[](<>)| ''.,$%12a\t\n", "hmm", "um ", "'s been", " and a half ", "one", "é", "   "]


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
