"""Tokens to words, against transformers' tokenizer."""

from pathlib import Path
from typing import Any

import pytest
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from exporter.families.whisper import family
from exporter.runtime.whisper.text import Text
from exporter.runtime.words.splitting import UNSPACED, letters_of, words_of
from exporter.runtime.words.timing import Timing, merge_punctuation

TEXTS = [
    " turn on the lights",
    " red, green - and \"blue\" (or 'black') ...",
    " it's 12:30, isn't it?",
    " naïve café — 10 €",
    " 今天天气很好,我们走吧。",
    " สวัสดีครับ",
    "no space before",
    " a  b   c",
    " 🎉 emoji 👩‍👩‍👧",
    " -5 $3 #x",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_whisper: Path) -> Any:
    """Most letters are spelled by the bytes of UTF-8."""
    return family.processor(tiny_whisper).tokenizer


@pytest.fixture(scope="module")
def text(tiny_whisper: Path) -> Text:
    return Text.read(tiny_whisper)


NAMES = {"zh": "chinese", "en": "english", None: "english"}


@pytest.mark.parametrize("language", NAMES)
@pytest.mark.parametrize("spoken", TEXTS)
def test_words(tokenizer: Any, text: Text, spoken: str, language: str | None) -> None:
    tokens = text.encode(spoken)
    words, each, _ = _combine_tokens_into_words(tokenizer, tokens, NAMES[language])
    found = [Timing(one.text, [*one.tokens], 0, 0, 1) for one in words_of(text, tokens, language)]
    merge_punctuation(found)
    left = [one for one in found if one.text]
    assert [(one.text, one.tokens) for one in left] == list(zip(words, each, strict=True))
    assert "".join(one.text for one in left) == spoken


def test_letters_stand_for_words_without_spaces(text: Text) -> None:
    spoken = "今天天气很好"
    tokens = text.encode(spoken)
    assert len(tokens) == 18
    assert [one.text for one in words_of(text, tokens, "ja")] == [*spoken]
    assert [one.text for one in words_of(text, tokens, "en")] == [spoken]
    assert "ko" not in UNSPACED


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_letters_that_are_cut_off(text: Text, cut: int) -> None:
    """A window may end within a letter, and a model may spell what is none."""
    tokens = text.encode("天气")[:cut]
    pieces = letters_of(text, [*tokens, *text.encode(" red")])
    assert [token for one in pieces for token in one.tokens] == [*tokens, *text.encode(" red")]
    assert pieces[-1].text.endswith("red")
    assert words_of(text, [], "en") == []
    ends = letters_of(text, tokens)
    assert sum(len(one.tokens) for one in ends) == cut
