"""Words of CTC models, against transformers' offsets of words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models
from transformers import Wav2Vec2CTCTokenizer

from exporter.families import FAMILIES
from exporter.recipe import Decoding
from exporter.runtime.ctc.text import Alphabet, Pieces
from exporter.runtime.ctc.tokens import read_tokens
from exporter.runtime.ctc.words import words_of
from tests.support.tiny_ctc import make_ctc, tones

FAMILY = FAMILIES["ctc"]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ctc(tmp_path_factory.mktemp("ctc") / "letters")


@pytest.mark.parametrize("seed", range(20))
def test_words_are_transformers_offsets(letters: Path, seed: int) -> None:
    """Frames of blanks, repeated letters and delimiters, also at both ends."""
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(letters)
    random = np.random.default_rng(seed)
    choices = [0, 0, 0, 4, 4, *range(5, 16)]  # the blank, and the end of a word
    frames = random.choice(choices, 60).repeat(random.integers(1, 4, 60)).tolist()
    out = tokenizer.decode(frames, output_word_offsets=True)
    found = words_of(read_tokens(letters, pieces=False).alphabet(), frames, [1.0] * 200, 0.02)
    expected = [
        (one["word"], round(one["start_offset"] * 0.02, 3), round(one["end_offset"] * 0.02, 3))
        for one in out.word_offsets
        if one["word"].strip()
    ]
    assert [(one.text.strip(), one.start_s, one.end_s) for one in found] == expected
    assert "".join(one.text for one in found) == " ".join(out.text.split())


def test_probabilities_are_those_of_frames() -> None:
    alphabet = Alphabet({1: "a", 2: "b", 3: " "})
    chances = [0.5, 0.7, 0.9, 0.1, 0.4, 0.2]
    one, other = words_of(alphabet, [1, 1, 2, 3, 0, 2], chances, 1.0)
    assert (one.text, one.start_s, one.end_s) == ("ab", 0, 3)
    assert one.probability == pytest.approx(0.75)
    assert (other.text, other.start_s, other.end_s) == (" b", 5, 6)
    assert other.probability == pytest.approx(0.2)
    assert words_of(alphabet, [0, 3, 3], [1.0] * 3, 1.0) == ()


def test_words_and_spaces_inside_tokens() -> None:
    """Tokens may begin with a space, be a word, or several."""
    alphabet = Alphabet({1: " the", 2: "m", 3: " new york", 4: "WORD "}, lower=True)
    found = words_of(alphabet, [1, 0, 2, 3, 4, 4, 2], [1.0] * 7, 1.0)
    assert [one.text for one in found] == ["them", " new", " yorkword", " m"]
    assert [(one.start_s, one.end_s) for one in found] == [(0, 3), (3, 4), (3, 6), (6, 7)]


def test_spaces_that_are_cleaned_up() -> None:
    spelled = dict(enumerate(" ,.'satin"))
    alphabet = Alphabet(spelled, cleaned=True)
    for text in ("a tin , is .", "it 's a . ' sat", " ' a ' "):
        frames = [" ,.'satin".index(letter) for letter in text]
        frames = [each for one in frames for each in (one, -1)]
        found = words_of(alphabet, frames, [1.0] * len(frames), 1.0)
        assert "".join(one.text for one in found).strip() == alphabet.text(alphabet.tokens(frames))


def pieces() -> Pieces:
    """Pieces of words and bytes, as SentencePiece has them."""
    words = {"<unk>": 0, "▁the": 1, "▁re": 2, "d": 3, "<0xE2>": 4, "<0x82>": 5, "<0xAC>": 6}
    joiner = tokenizers.Tokenizer(models.BPE(words, [], byte_fallback=True, unk_token="<unk>"))
    joiner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return Pieces({number: name for name, number in words.items() if number}, joiner=joiner)


def test_pieces_of_words() -> None:
    alphabet = pieces()
    frames = [1, 1, 0, 2, 3, 0, 4, 5, 6, 1]
    found = words_of(alphabet, frames, [1.0] * 10, 1.0)
    assert [one.text for one in found] == ["the", " red€", " the"]
    assert [(one.start_s, one.end_s) for one in found] == [(0, 2), (3, 9), (9, 10)]
    assert "".join(one.text for one in found) == alphabet.text(alphabet.tokens(frames))


@pytest.mark.parametrize("kind", ["wav2vec2", "parakeet_ctc"])
def test_recordings(kind: str, tmp_path: Path) -> None:
    """Also in chunks, whose frames go on from one to the next."""
    folder = make_ctc(tmp_path / kind, kind)
    model, processor = FAMILY.open_original(folder), FAMILY.processor(folder)
    sound = tones(3.0)

    def heard(**how: Any) -> Any:
        (one,) = FAMILY.transcribe(model, processor, [sound], Decoding(**how))
        return one

    for how in ({}, {"chunk_length_s": 1.2}):
        found, plain = heard(word_timestamps=True, **how), heard(**how)
        (segment,) = found.segments
        assert (found.text, found.tokens) == (plain.text, plain.tokens)
        assert plain.segments[0].words is None
        assert segment.words
        assert "".join(word.text for word in segment.words) == " ".join(found.text.split())
        before = 0.0
        for word in segment.words:
            assert before <= word.start_s < word.end_s <= segment.end_s + 1e-3
            assert 0 < word.probability <= 1
            before = word.end_s
        assert segment.words[-1].end_s > 2
