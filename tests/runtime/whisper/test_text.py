"""Text and tokens, held against transformers' tokenizer on the same files."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperTokenizerFast

from exporter.errors import IntegrityError, RecipeError
from exporter.runtime.whisper.text import Text
from tests.support.words import SOUND, WORDS, add_words

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "recipes/demo/whisper"
SENTENCES = [
    "",
    " The quick brown fox, isn't it? They'll say we've 12 or 1,300 of 'em.",
    "  two  spaces\n\tand tabs   ",
    "Grüße aus Köln, 東京、서울 und ½ ²³ Ⅷ 👩‍🔬!",
    "a\u00a0b\u2003c\u3000d\x1cd\x85e",
    "IT'S O'Clock 'tis'll 'Re",
]


@pytest.fixture(scope="module")
def added(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with added words, spaces cleaned up."""
    folder = Path(shutil.copytree(tiny_whisper, tmp_path_factory.mktemp("text") / "added"))
    add_words(folder, {})
    config = folder / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"clean_up_tokenization_spaces": True}
    config.write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def parts(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without `tokenizer.json`."""
    folder = Path(shutil.copytree(tiny_whisper, tmp_path_factory.mktemp("text") / "parts"))
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.fixture(params=["demo", "tiny", "added", "parts"])
def folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "demo":
        return DEMO
    name = "tiny_whisper" if request.param == "tiny" else request.param
    found: Path = request.getfixturevalue(name)
    return found


def test_every_token_and_rows_of_them(folder: Path) -> None:
    theirs, ours = WhisperTokenizerFast.from_pretrained(folder), Text.read(folder)
    assert ours.ids == sorted(theirs.get_vocab().values())
    rows = [[number] for number in ours.ids] + [ours.ids[i::7] for i in range(7)]
    for row in [*rows, [len(ours.ids) + 9], []]:
        expected = theirs.decode(row, skip_special_tokens=True).strip()
        assert ours.decode(row) == expected
    special = set(theirs.all_special_ids)
    assert not special.intersection(ours.spoken(ours.ids))
    assert all(number in special or ours.spoken([number]) for number in range(200))


def test_sentences(folder: Path) -> None:
    theirs, ours = WhisperTokenizerFast.from_pretrained(folder), Text.read(folder)
    for sentence in SENTENCES:
        assert ours.encode(sentence) == theirs(sentence, add_special_tokens=False).input_ids


_theirs, _ours = WhisperTokenizerFast.from_pretrained(DEMO), Text.read(DEMO)


@given(st.text() | st.text("aet h'rs12 \n\t.,"))
def test_any_text(sentence: str) -> None:
    ids = _theirs(sentence, add_special_tokens=False).input_ids
    assert _ours.encode(sentence) == ids
    assert _ours.decode(ids) == sentence.strip() or "<|" in sentence or sentence != sentence.strip()


@given(st.lists(st.integers(0, 800)))
def test_any_tokens(ids: list[int]) -> None:
    assert _ours.decode(ids) == _theirs.decode(ids, skip_special_tokens=True).strip()


def test_added_words_are_text(added: Path) -> None:
    theirs, ours = WhisperTokenizerFast.from_pretrained(added), Text.read(added)
    words = [theirs.convert_tokens_to_ids(word) for word in WORDS]
    sound = theirs.convert_tokens_to_ids(SOUND)
    assert ours.spoken([*words, sound]) == words
    sentence = f"red{WORDS[0]} and {WORDS[1]} ."
    assert ours.encode(sentence) == theirs(sentence, add_special_tokens=False).input_ids
    assert ours.decode(ours.encode(sentence)) == sentence.replace(" .", ".")
    with pytest.raises(RecipeError, match="special token"):
        ours.encode(f"a {SOUND}")


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"merges\.txt"):
        Text.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(IntegrityError, match="model"):
        Text.read(tmp_path)
